"""The command `maisi`, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def maisi(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maisi_client", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )
