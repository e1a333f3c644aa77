"""docs/reference/cli.md is up to date with the command's parser, on any Python and terminal."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_the_reference_is_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, "client/reference.py"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "40"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == (ROOT / "docs/reference/cli.md").read_text(), "run scripts/write cli"
    assert "maisi generate -o OUT [OPTION ...] [MASK]" in result.stdout
    assert result.stdout.count("Exit codes: 0 done, 1 failed") == result.stdout.count("\n## ")
