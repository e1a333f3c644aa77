"""The first volumes of a server, before it is ready."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server import startup
from server.control import ControlError, Smallest
from server.drain import Stop
from server.settings import CannotServe


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
