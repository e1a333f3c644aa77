"""The first volumes of a server, before it is ready."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from server import startup
from server.control import ControlError, Smallest
from server.drain import Stop, Stopped
from server.settings import CannotServe
from server.triton import Triton


def test_a_first_volume_is_tried_again_while_a_process_only_seems_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unhealthy = ControlError("Stub process 'mini.decoder_0_0' is not healthy.", 500)
    outcomes: list[ControlError | None] = [unhealthy, unhealthy, None]

    class BusyControl:
        def probe(self, model: str, smallest: Smallest, seconds: float) -> None:
            if (outcome := outcomes.pop(0)) is not None:
                raise outcome

        def activity(self) -> None:
            raise ControlError("no answer")

    def make_first() -> None:
        triton = SimpleNamespace(control=BusyControl())
        smallest = Smallest((32, 32, 32), None)
        startup.make_first(triton, "mini", smallest, 60, Stop())  # type: ignore[arg-type]

    monkeypatch.setattr(startup, "RETRY", 0.01)
    make_first()
    assert not outcomes
    monkeypatch.setattr(startup, "UNHEALTHY", 0.0)
    outcomes[:] = [unhealthy]
    with pytest.raises(CannotServe, match=r"^mini loaded but cannot compute: Stub process"):
        make_first()


def test_a_signal_during_a_first_volume_ends_the_start_before_the_next_one() -> None:
    stop, made = Stop(), []

    class Control:
        def probe(self, model: str, smallest: Smallest, seconds: float) -> None:
            made.append(model)
            stop.handle(signal.SIGTERM, None)

    triton = SimpleNamespace(control=Control())
    smallest = Smallest((32, 32, 32), None)
    startup.make_first(triton, "a", smallest, 60, stop)  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        startup.make_first(triton, "b", smallest, 60, stop)  # type: ignore[arg-type]
    assert made == ["a"]


@pytest.mark.parametrize(
    ("statuses", "starts"),
    [([-signal.SIGABRT, None], 1), ([-signal.SIGABRT, -signal.SIGABRT], 1), ([1], 0)],
)
def test_a_tritonserver_that_aborts_while_it_loads_is_started_once_more(
    statuses: list[int | None], starts: int
) -> None:
    ended = list(statuses)
    calls: list[str] = []
    triton = SimpleNamespace(
        prefix="maisi-serve-test-",
        control=SimpleNamespace(ready=lambda: not statuses, states=dict),
        process=SimpleNamespace(poll=lambda: statuses.pop(0)),
        start=lambda: calls.append("start"),
        end=lambda seconds: calls.append("end"),
        restart=lambda: Triton.restart(triton),  # type: ignore[arg-type]
    )
    settings = SimpleNamespace(start_seconds=60)

    def wait() -> dict[str, Smallest]:
        return startup.wait_until_ready(triton, settings, Stop())  # type: ignore[arg-type]

    if ended[-1] is None:
        assert wait() == {}
    else:
        with pytest.raises(CannotServe, match=f"^tritonserver ended with status {ended[-1]} "):
            wait()
    assert calls == ["end", "start"] * starts
