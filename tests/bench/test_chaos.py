"""Each fault of scripts/chaos is a test; those that take long are in the slow group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import chaos, scene

QUICK = (
    "kill mini.sampler (ensemble)",
    "kill mini.flow_masked (stream)",
    "kill a client (waiting)",
    "kill a client (decoder)",
    "fill the disk below maisi generate",
    "fill the disk below maisi dataset",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chaos.Stage]:
    stage = chaos.Stage(tmp_path_factory.mktemp("chaos"))
    yield stage
    stage.clear()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in chaos.FAULTS],
)
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
