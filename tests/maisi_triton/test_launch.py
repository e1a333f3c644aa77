"""A package is run from the folder that is named, whatever is in the current one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from maisi_triton import folders


def test_the_current_folder_does_not_count(tmp_path: Path) -> None:
    package = tmp_path / "tree" / "server"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys\ndef main():\n    print(sys.argv[1:], 'log' in sys.modules)\n    return 3\n"
    )
    (tmp_path / "server.py").write_text("raise SystemExit('another module')")
    launch = [sys.executable, str(folders.PACKAGE / "launch.py"), str(tmp_path / "tree")]
    process = subprocess.run(
        [*launch, "server", "--help", "x"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout) == (3, "['--help', 'x'] False\n"), process.stderr
