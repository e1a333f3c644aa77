"""Interpreters are found; where tests must not be skipped, a missing one is a failure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import tools

FAILS = "#!/bin/sh\nexit 127\n"
PYENV = """\
#!/bin/sh
case "$*" in
  "latest 3.99") echo 3.99.1;;
  "prefix 3.99.1") echo "$(dirname "$0")/../versions/3.99.1";;
  *) exit 1;;
esac
"""


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return an empty folder that is PATH, besides the system's."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    tools.interpreter.cache_clear()
    yield tmp_path / "bin"
    tools.interpreter.cache_clear()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_this_interpreter_is_found(programs: Path) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert tools.interpreter(version) == sys.executable


def test_an_interpreter_of_path_is_found(programs: Path) -> None:
    program = write(programs / "python3.99", "#!/bin/sh\necho 3.99\n")
    assert tools.interpreter("3.99") == str(program)


def test_an_interpreter_of_pyenv_is_found_where_path_has_its_script(programs: Path) -> None:
    write(programs / "python3.99", FAILS)
    write(programs / "pyenv", PYENV)
    program = programs / "../versions/3.99.1/bin/python3.99"
    write(program, "#!/bin/sh\necho 3.99\n")
    assert tools.interpreter("3.99") == str(program)


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_missing_interpreter_fails_in_ci_alone(
    ci: str, outcome: type[BaseException], programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    write(programs / "python3.99", FAILS)
    with pytest.raises(outcome, match=r"python3\.99 is not installed"):
        tools.interpreter("3.99")


@pytest.mark.slow  # as the tests that need them
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_an_interpreter_that_is_found_has_the_version(version: str) -> None:
    words = (tools.interpreter(version), "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    assert subprocess.check_output(words, text=True).strip() == version
