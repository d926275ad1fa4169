"""Catch SIGTERM and Ctrl-C, so that a training ends after a step and not within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGTERM and Ctrl-C in a list, so that they do not stop a training in mid-step.

    A second Ctrl-C interrupts at once. (Only the main thread of a program may catch signals.)
    """
    caught: list[signal.Signals] = []

    def catch(number: int, _frame: object) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    main = threading.current_thread() is threading.main_thread()
    watched = (signal.SIGTERM, signal.SIGINT) if main else ()
    before = {number: signal.signal(number, catch) for number in watched}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
