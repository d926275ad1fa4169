"""Look at other processes from outside: what they hold in memory, and who is left of a group."""

import re
from pathlib import Path


def resident(process) -> int:
    """MiB that a process holds in memory; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) // 1024 if found else 0


def state_and_group(pid: int | str) -> tuple[str, int] | None:
    """A process's state, one letter, and its group; None if there is no such process."""
    try:
        state, _, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return None
    return state, int(group)


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has asked for does not."""
    found = state_and_group(pid)
    return found is not None and found[0] not in "ZX"


def members(group: int) -> list[int]:
    """The processes of a group that run."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if alive(pid) and (state_and_group(pid) or "--")[1] == group]
