"""The images' SBOM, and the advisories on their packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docker import audit
from tests.conftest import ROOT

LOCKED = {name: ROOT / "docker" / f"requirements-{name}.txt" for name in audit.NAMES}
# As pip-audit 2.10 writes it; the advisory is a real one.
FINE = {"name": "numpy", "version": "1.26.4", "vulns": []}
SKIPPED = {"name": "grpcio", "skip_reason": "Dependency not found on PyPI and could not be audited"}
BAD = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [
        {
            "id": "PYSEC-2019-217",
            "fix_versions": ["2.10.1"],
            "aliases": ["CVE-2019-10906", "GHSA-462w-v97r-4m45"],
            "description": "In Pallets Jinja before 2.10.1, str.format_map escapes the sandbox.",
        }
    ],
}


def test_every_locked_package_is_in_the_sbom_with_its_digest(tmp_path: Path) -> None:
    to = tmp_path / "sbom" / "cpu.cdx.json"
    lines = [line for line in LOCKED["cpu"].read_text().splitlines() if "==" in line]
    assert audit.sbom(LOCKED["cpu"], to) == len(lines) > 10
    bom = json.loads(to.read_text())
    assert bom["bomFormat"] == "CycloneDX"
    numpy = next(component for component in bom["components"] if component["name"] == "numpy")
    assert numpy["purl"] == f"pkg:pypi/numpy@{numpy['version']}"
    assert any(numpy["externalReferences"][0]["hashes"][0]["content"] in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpu", "client"])
def test_of_the_other_images_too(name: str, tmp_path: Path) -> None:
    assert audit.sbom(LOCKED[name], tmp_path / "sbom.json") > 10


def test_an_sbom_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "requirements.txt"
    digest = "0" * 64
    # The second line has no digest.
    other.write_text(f"numpy==1.26.4 --hash=sha256:{digest}\nnumpy==1.26.4\n")
    with pytest.raises(ValueError, match=r"'numpy==1\.26\.4' is not NAME==VERSION"):
        audit.locked_packages(other)
    bom = {"components": [{"name": "a_B", "version": "1", "externalReferences": []}]}
    assert audit.components(bom) == set()
    hashes = [{"alg": "SHA-256", "content": digest}]
    bom["components"][0]["externalReferences"] = [{"hashes": hashes}]
    assert audit.components(bom) == {("a-b", "1", digest)}


@pytest.mark.parametrize(
    ("packages", "usual", "strict"),
    [
        ([FINE], 0, 0),
        ([FINE, SKIPPED], 0, 1),  # pip-audit itself would call that fine
        ([SKIPPED], 0, 1),
        ([], 0, 1),
        ([FINE, BAD], 1, 1),
        ([BAD, SKIPPED], 1, 1),
    ],
)
def test_an_advisory_fails_and_with_strict_a_skipped_package(
    packages: list[dict[str, object]], usual: int, strict: int
) -> None:
    result = audit.parse_report({"dependencies": packages, "fixes": []})
    assert (result.status(strict=False), result.status(strict=True)) == (usual, strict)


ADVISORY = """\
id: PYSEC-2022-48
aliases: [CVE-2021-22570]
affected:
- package: {name: protobuf, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: "0"}, {fixed: a00f8bf}]
  - type: ECOSYSTEM
    events: [{introduced: "0"}, {fixed: 3.15.0}, {introduced: "4"}, {last_affected: "4.2"}]
  versions: [3.16.0rc1]
"""


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.9", True),
        ("3.15.0", False),
        ("3.16.0rc1", True),
        ("4.2", True),
        ("4.10", False),
        ("6.33.6", False),
    ],
)
def test_a_database_is_searched(version: str, affected: bool, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"Protobuf=={version} --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ValueError, match=r"is not a clone of github\.com/pypa/advisory-database"):
        audit.search_database(requirements, tmp_path)
    file = tmp_path / "vulns" / "protobuf" / "PYSEC-2022-48.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(ADVISORY)
    result = audit.search_database(requirements, tmp_path)
    line = f"protobuf {version}: PYSEC-2022-48, CVE-2021-22570; fixed in 3.15.0"
    assert result == audit.Audit((line,) if affected else (), ("protobuf",), ())
    file.write_text(f"{ADVISORY}withdrawn: 2024-01-01T00:00:00Z\n")
    assert audit.search_database(requirements, tmp_path).advisories == ()


def test_an_advisory_is_named() -> None:
    (line,) = audit.parse_report({"dependencies": [FINE, BAD], "fixes": []}).advisories
    expected = "jinja2 2.4.1: PYSEC-2019-217, CVE-2019-10906, GHSA-462w-v97r-4m45; fixed in 2.10.1"
    assert line == expected
