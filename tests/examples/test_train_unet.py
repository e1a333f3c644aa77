"""The example learns, from nobody's volumes, what holds for a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Server


@pytest.mark.slow
def test_the_loss_on_the_real_template_falls(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "examples/train_unet.py", "--steps=40", f"--url={server.grpc}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["volumes"] == 40
    assert told["after"] < told["before"] / 2
    assert min(told["dice"]["grey"], told["dice"]["white"]) > 0.3  # not the background alone
