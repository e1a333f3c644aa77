"""There is one version, and a new one reaches every file that names it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from docker import version
from tests.conftest import ROOT

# Where people read which version they have, or get.
PAGES = ["*.cff", "*.md", "*pyproject.toml", "docker", "docs", "src/*.py", "backends/*/__init__.py"]
# It names earlier versions, too.
HISTORY = "CHANGELOG.md"


@pytest.mark.parametrize("path", version.PREFIXES, ids=str)
def test_a_file_has_the_version(path: Path) -> None:
    assert set(version.copies()[path]) == {version.current()}, "run scripts/write version"


def test_a_new_version_is_written_everywhere(tmp_path: Path) -> None:
    command = ["git", "ls-files", "-z", *PAGES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [path for path in map(Path, listed.split("\0")[:-1]) if path.suffix != ".png"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    source = tmp_path / version.SOURCE
    source.write_text(source.read_text().replace(version.current(), "34.5.6rc7"))
    version.write(tmp_path)
    # Not a part of a number, nor a version that another package is pinned to.
    before = re.compile(rf"(?<![\w.=]){re.escape(version.current())}(?![\w.]*\d)")
    left = [path for path in paths if before.search((tmp_path / path).read_text())]
    assert left == [Path(HISTORY)]
    assert version.current(tmp_path) == "34.5.6rc7"
    chart = yaml.safe_load((tmp_path / "docker/helm/maisi/Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == "34.5.6rc7"
    assert chart["apiVersion"] == "v2"


def test_the_changelog_has_the_version_below_what_is_unreleased() -> None:
    text = (ROOT / HISTORY).read_text()
    sections = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", text, re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert sections[1][0] == version.current()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for _, day in sections[1:])
