"""Runs the same work in many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_at_once(count: int, work: Callable[[int], object]) -> None:
    """Runs `work` in `count` threads that start together, and raises what one of them raised."""
    start, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
