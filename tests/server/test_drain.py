"""Signals that end a wait."""

from __future__ import annotations

import signal
import threading

import pytest

from server.drain import Stop

PATIENCE = 60  # seconds


def test_a_signal_ends_a_wait_and_a_second_one_is_counted() -> None:
    stop = Stop()
    assert not stop.wait(0.01) and not stop.requested
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGUSR1])
    before = signal.signal(signal.SIGUSR1, stop.handle)
    try:
        timer.start()
        assert stop.wait(PATIENCE) and not stop.immediate
        signal.raise_signal(signal.SIGUSR1)
        assert stop.immediate
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_closed_terminal_is_one_signal() -> None:
    stop = Stop()
    for _ in range(2):  # of the shell and of the kernel
        stop.handle(signal.SIGHUP, None)
    assert stop.requested and not stop.immediate


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_signals_of_a_stop_are_handled(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[int, object] = {}
    monkeypatch.setattr("server.drain.signal.signal", handlers.__setitem__)
    monkeypatch.setattr("server.drain.signal.getsignal", lambda number: signal.SIG_DFL)
    stop = Stop()
    stop.install()
    assert handlers[number] == stop.handle
