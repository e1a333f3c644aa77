"""What indexes, GitHub and people who cite read of the project is valid and says one thing."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker import version
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECTS = {"maisi-triton": ROOT, "maisi-client": ROOT / "client"}
METADATA = "from hatchling import build as b; print(b.prepare_metadata_for_build_wheel('.'))"
LICENCES = {  # expression, files
    "maisi-triton": ("Apache-2.0", ["LICENSE", "MODEL_CARD.md"]),
    "maisi-client": (
        "Apache-2.0 AND BSD-2-Clause",
        ["LICENSE", "src/maisi_client/_studio/static/niivue-licence.txt"],
    ),
}
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yaml"))
SCHEMAS = {
    ROOT / "CITATION.cff": "citation-file-format",
    ROOT / "docker" / "compose.yaml": "compose-spec",
    **dict.fromkeys(FORMS, "github-issue-forms"),
}
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / ".github").glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "client" / "README.md",
    ROOT / "src" / "README.md",
    ROOT / "docker" / "helm" / "maisi" / "README.md",
]


def project(name: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((PROJECTS[name] / "pyproject.toml").read_text())
    return table["project"]


@pytest.fixture(scope="module", params=PROJECTS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of metadata that a wheel of a project has."""
    folder = tmp_path_factory.mktemp("project")
    files = ["pyproject.toml", project(request.param)["readme"], *LICENCES[request.param][1]]
    if request.param == "maisi-triton":
        files.append(str(version.SOURCE))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECTS[request.param] / name, folder / name)
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", METADATA]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return folder / process.stdout.split()[-1]


def test_a_package_has_its_licence_and_what_an_index_shows(built: Path) -> None:
    metadata: Message = email.message_from_string((built / "METADATA").read_text())
    expression, files = LICENCES[metadata["Name"]]
    assert metadata["Version"] == version.current()
    assert metadata["License-Expression"] == expression and metadata["Author"]
    assert metadata.get_all("License-File") == files
    assert metadata.get_all("Project-URL")
    assert (built.parent / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    classifiers = metadata.get_all("Classifier", [])
    assert not [one for one in classifiers if one.startswith("License ::")]  # PEP 639 forbids both
    pythons = [re.sub(r".*:: ", "", one) for one in classifiers if re.search(r":: 3\.\d", one)]
    assert f">={pythons[0]}" in metadata["Requires-Python"].split(",")
    assert "medical imaging" in metadata["Keywords"].split(",")


def test_the_citation_has_the_licence_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == project("maisi-triton")["license"]


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_file_is_as_its_schema_demands(path: Path) -> None:
    schema = f"vendor.{SCHEMAS[path]}"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_a_form_asks_for_everything_once() -> None:
    assert len(FORMS) == 2
    for path in FORMS:
        fields = [field for field in yaml.safe_load(path.read_text())["body"] if "id" in field]
        names = [field["id"] for field in fields]
        assert len(set(names)) == len(names) > 3
        assert fields[0]["validations"] == {"required": True}


def test_hooks_run_our_scripts_and_pin_nothing_of_their_own() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system" and "additional_dependencies" not in hook
        assert os.access(ROOT / hook["entry"], os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_no_host_of_package_archives_is_in_the_code() -> None:
    hosts = r"pythonhosted\.org|pypi\.org|(debian|ubuntu)\.(org|com)/|npmjs|anaconda\.org"
    grep = ["git", "grep", "-nIE", hosts, "--", ".", ":!*.md", ":!tests", ":!*/static/niivue*"]
    process = subprocess.run(grep, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1, process.stdout + process.stderr
