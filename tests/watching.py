"""Look at other processes from outside: what they hold in memory, and who is left of a group."""

import json
import re
from pathlib import Path

_MEMORY = Path(__file__).resolve().parent.parent / "benchmarks" / "memory.json"


def resident(process) -> int:
    """MiB that a process holds in memory; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) // 1024 if found else 0


def record_memory(name: str, samples: list[tuple[float, int]]) -> None:
    """Store what a process held (MiB) at each percent of its work, for the page on reliability."""
    most: dict[str, int] = {}
    for done, held in samples:
        if held:
            percent = str(min(int(100 * done), 99))
            most[percent] = max(held, most.get(percent, 0))
    stored = json.loads(_MEMORY.read_text()) if _MEMORY.exists() else {}
    _MEMORY.write_text(json.dumps({**stored, name: most}, indent=1) + "\n")


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
