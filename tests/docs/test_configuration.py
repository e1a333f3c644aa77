"""The reference of the configuration is up to date and complete."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from docs.configuration import MEANINGS, PAGE, flat, key_pattern, page
from export.variant import SERVING, SERVING_OPTIONAL, VARIANTS
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = [*sorted(VARIANTS.glob("*.toml")), ROOT / "tests" / "export" / "tiny" / "tiny.toml"]
SOURCES = ("backends", "server", "client/src", "export", "src")
GROUPS = MEANINGS["variables"].items()
VARIABLES = {name for group, names in GROUPS for name in names if group != "compose"}
# Read by huggingface_hub, tempfile, ssl and opentelemetry.
OF_LIBRARIES = {"HF_TOKEN", "HF_ENDPOINT", "TMPDIR", "SSL_CERT_FILE", "OTEL_BSP_SCHEDULE_DELAY"}


def keys(path: Path) -> set[str]:
    return {key for key, _ in flat(tomllib.loads(path.read_text()))}


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAISI_MODELS", "MAISI_EXPORT_CACHE", "MAISI_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    assert PAGE.read_text() == page(), "run scripts/write configuration"


def test_every_row_of_the_page_has_a_meaning() -> None:
    groups = r"^\| `(resources|models|dataset|serviceAccount)` \|"
    for row in PAGE.read_text().splitlines():
        if row.startswith("| `") and not re.match(groups, row):
            assert not row.endswith("|  |"), row


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_of_a_variant_is_explained_once(path: Path) -> None:
    for key in keys(path):
        matches = [name for name in MEANINGS["variant"] if key_pattern(name).fullmatch(key)]
        assert len(matches) == 1, (key, matches)


def test_every_explained_key_exists() -> None:
    used = {key for path in FILES for key in keys(path)}
    for name in MEANINGS["variant"]:
        is_used = any(key_pattern(name).fullmatch(key) for key in used)
        assert is_used or name.removeprefix("serving.") in SERVING_OPTIONAL, name
    tables = {name.split(".")[1] for name in MEANINGS["variant"] if name.startswith("serving.")}
    assert {*SERVING, *SERVING_OPTIONAL} <= tables


def test_every_variable_of_the_sources_is_explained_and_no_other() -> None:
    texts = [path.read_text() for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    pattern = r'"((?:MAISI|OTEL|XDG|HF)_[A-Z_]+|(?:no_)?grpc_proxy)"'
    assert {name for text in texts for name in re.findall(pattern, text)} == (
        VARIABLES - OF_LIBRARIES
    )
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)", compose)) == set(MEANINGS["variables"]["compose"])
