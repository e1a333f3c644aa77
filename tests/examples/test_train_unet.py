"""The example learns from synthetic volumes to segment a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Server


@pytest.mark.slow
def test_the_loss_on_the_real_template_falls(server: Server) -> None:
    process = subprocess.run(
        [sys.executable, "examples/train_unet.py", "--steps=40", f"--url={server.grpc}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["volumes"] == 40
    assert result["after"] < result["before"] / 2
    assert min(result["dice"]["grey"], result["dice"]["white"]) > 0.3  # not the background alone
