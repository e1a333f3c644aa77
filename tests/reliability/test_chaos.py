"""Each fault of scripts/reliability chaos is a test; those that take long are in the slow group."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from reliability import chaos, fault_target

QUICK = (
    "kill mini.flow_masked (stream)",
    "kill a client (waiting)",
    "fill the disk below maisi dataset",
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chaos.FaultRunner]:
    runner = chaos.FaultRunner(tmp_path_factory.mktemp("chaos"))
    yield runner
    runner.clear()


def marks(name: str) -> list[pytest.MarkDecorator]:
    if name in QUICK:
        return []
    reason = "MAISI_SET_CLOCK in the environment allows to set the machine's clock"
    forbidden = name in chaos.BY_NAME and "MAISI_SET_CLOCK" not in os.environ
    return [pytest.mark.slow, *([pytest.mark.skip(reason)] * forbidden)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n)) for n in chaos.FAULTS])
def test_nothing_is_lost(runner: chaos.FaultRunner, name: str) -> None:
    try:
        assert runner.run(chaos.FAULTS[name])
    except fault_target.Unable as error:
        pytest.skip(str(error))
    except BaseException:
        runner.clear()
        raise


@pytest.mark.parametrize("message", ["", "Traceback (most recent call last)", "a\nb", "x" * 500])
def test_what_is_not_a_sentence(message: str) -> None:
    with pytest.raises(fault_target.Wrong):
        fault_target.checked_sentence(message)
