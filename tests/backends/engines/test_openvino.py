"""Engines of OpenVINO: a failed run leaves no trace, nor does one that ends in another thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as op

from backends.engines.openvino import Engine
from tests.backends.engines import flows
from tests.conftest import ROOT

LEFT = """
import signal, sys, threading
from backends.engines.openvino import Engine
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
held = [Engine(sys.argv[1])]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.raise_signal(signal.SIGUSR1)
print(len(caught))
"""


def test_signals_come_after_an_engine_ended_in_another_thread(tmp_path: Path) -> None:
    x = op.parameter([1, 4], np.float32, name="x")
    openvino.save_model(openvino.Model([op.relu(x)], [x]), tmp_path / "relu.xml")
    words = [sys.executable, "-c", LEFT, str(tmp_path / "relu.xml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.fixture(scope="module")
def flow() -> Engine:
    return Engine(flows.FLOW)


@pytest.mark.parametrize("kind", flows.WRONG)
def test_a_run_that_failed_leaves_the_next_as_it_was(flow: Engine, kind: str) -> None:
    before = {name: array.copy() for name, array in flow(flows.good()).items()}
    try:
        flow(flows.good() | flows.WRONG[kind])
    except Exception:
        assert flow.compiled == {}, "what failed is compiled again"
    for _ in range(2):
        for name, array in flow(flows.good()).items():
            assert array.tobytes() == before[name].tobytes()


def test_a_stage_that_failed_leaves_the_next_run_as_it_was() -> None:
    stage = Engine(ROOT / "model_repository" / "mini.vae_decoder" / "1" / "00.onnx", innermost=True)
    good = {"x": np.ones((1, 4, 3, 8, 8), np.float32), "inside": np.ones((3, 1, 1), np.float32)}
    before = stage(good)["y"].copy()
    for wrong in (
        {"inside": np.ones((9, 1, 1), np.float32)},
        {"x": np.ones((1, 5, 3, 8, 8), "f4")},
    ):
        with pytest.raises(RuntimeError):
            stage(good | wrong)
        assert stage(good)["y"].tobytes() == before.tobytes()
