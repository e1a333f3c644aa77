"""Each fault of scripts/reliability chaos is a test; those that take long are in the slow group."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from reliability import chaos, scene

QUICK = (
    "kill mini.flow_masked (stream)",
    "kill a client (waiting)",
    "fill the disk below maisi dataset",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chaos.Stage]:
    stage = chaos.Stage(tmp_path_factory.mktemp("chaos"))
    yield stage
    stage.clear()


def marks(name: str) -> list[pytest.MarkDecorator]:
    if name in QUICK:
        return []
    told = "MAISI_SET_CLOCK in the environment allows to set the machine's clock"
    forbidden = name in chaos.ASKED and "MAISI_SET_CLOCK" not in os.environ
    return [pytest.mark.slow, *([pytest.mark.skip(told)] * forbidden)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n)) for n in chaos.FAULTS])
def test_nothing_is_lost(stage: chaos.Stage, name: str) -> None:
    try:
        assert stage.play(chaos.FAULTS[name])
    except scene.Unable as error:
        pytest.skip(str(error))
    except BaseException:
        stage.clear()
        raise


@pytest.mark.parametrize("told", ["", "Traceback (most recent call last)", "a\nb", "x" * 500])
def test_what_is_not_a_sentence(told: str) -> None:
    with pytest.raises(scene.Wrong):
        scene.sentence(told)
