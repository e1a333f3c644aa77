"""Threads beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.conftest import PATIENCE


def later(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a thread, which does not outlive the process."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@contextmanager
def repeating(work: Callable[[], None], pause: float = 0.05) -> Iterator[None]:
    """Call `work` in a thread within the block, every `pause` seconds."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(pause):
            work()

    with ThreadPoolExecutor(1) as pool:
        repeated = pool.submit(repeat)
        try:
            yield
        finally:
            stop.set()
            repeated.result(PATIENCE)
