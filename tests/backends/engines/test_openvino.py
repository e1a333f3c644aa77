"""Engines of OpenVINO come and go in any thread, and leave the process as it was."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as op

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
