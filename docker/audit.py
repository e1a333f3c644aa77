"""List the packages of the images and the advisories on them: `scripts/write sbom`.

For each docker/requirements-*.txt, the command writes a CycloneDX SBOM to build/sbom/, and
pip-audit requests advisories from PyPI. Mirrors of PyPI often have no advisories. pip-audit then
skips packages, and the command lists them. Without the internet, the command can search a clone of
PyPA's database, github.com/pypa/advisory-database, instead.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NAMES = ("cpu", "gpu", "client")
Package = tuple[str, str, str]  # normalised name, version, SHA-256


@dataclass(frozen=True)
class Audit:
    """Advisories, one line each, and the names of audited packages and of skipped packages."""

    advisories: tuple[str, ...]
    audited: tuple[str, ...]
    skipped: tuple[str, ...]

    def status(self, strict: bool) -> int:
        """Return 1 if there is an advisory or, with `strict`, a package was not audited, else 0."""
        return int(bool(self.advisories) or (strict and (bool(self.skipped) or not self.audited)))


def locked_packages(requirements: Path) -> set[Package]:
    """Return the packages in a file; raise ValueError for a line without version and digest."""
    packages = set()
    for line in requirements.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        parts = re.fullmatch(r"(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})", line)
        if not parts:
            raise ValueError(
                f"{requirements.name}: {line!r} is not NAME==VERSION --hash=sha256:..."
            )
        packages.add((normalised_name(parts[1]), parts[2], parts[3]))
    return packages


def normalised_name(name: str) -> str:
    """Return the name of a package, normalised according to PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def sbom(requirements: Path, to: Path) -> int:
    """Write the SBOM of a file; return the number of its components.

    cyclonedx-py validates the SBOM with CycloneDX's schema. Raises CalledProcessError if
    cyclonedx-py fails, and ValueError if the packages of the SBOM and the file differ.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "requirements", "--validate"),
            *("--output-reproducible", "--output-file", str(to), str(requirements)),
        ],
        check=True,
    )
    packages, listed = locked_packages(requirements), components(json.loads(to.read_bytes()))
    if packages != listed:
        names = ", ".join(sorted(name for name, _, _ in packages ^ listed))
        raise ValueError(f"{to.name} and {requirements.name} differ in packages: {names}")
    return len(listed)


def components(bom: dict[str, Any]) -> set[Package]:
    """Return the packages of an SBOM, with the SHA-256 of each file."""
    return {
        (normalised_name(component["name"]), component["version"], digest["content"])
        for component in bom.get("components", [])
        for reference in component.get("externalReferences", [])
        for digest in reference.get("hashes", [])
        if digest["alg"] == "SHA-256"
    }


def parse_report(report: dict[str, Any]) -> Audit:
    """Return the audit from pip-audit's JSON."""
    lines, audited, skipped = [], [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            skipped.append(package["name"])
            continue
        audited.append(package["name"])
        for advisory in package["vulns"]:
            ids, fixes = [advisory["id"], *advisory["aliases"]], advisory["fix_versions"]
            lines.append(_line(package["name"], package["version"], ids, fixes))
    return Audit(tuple(lines), tuple(audited), tuple(skipped))


def ask_pypi(requirements: Path) -> Audit:
    """Return PyPI's advisories on the packages in a file.

    If PyPI does not answer, all packages are skipped.
    """
    process = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps"),
            *(
                "--disable-pip",
                "--format=json",
                "--aliases=on",
                "--progress-spinner=off",
                "--timeout=30",
            ),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        return parse_report(json.loads(process.stdout))
    except ValueError:  # pip-audit ended with an error and printed no JSON
        names = sorted(name for name, _, _ in locked_packages(requirements))
        return Audit((), (), tuple(names))


def search_database(requirements: Path, database: Path) -> Audit:
    """Return the advisories on the packages in a file from a clone of PyPA's advisory database.

    Raises ValueError if the folder `database` is not such a clone.
    """
    if not (database / "vulns").is_dir():
        raise ValueError(f"{database} is not a clone of github.com/pypa/advisory-database")
    lines, packages = [], sorted(locked_packages(requirements))
    for name, version, _ in packages:
        for path in sorted((database / "vulns" / name).glob("*.yaml")):
            advisory = yaml.safe_load(path.read_text())
            matches = [entry for entry in advisory["affected"] if affects(entry, version)]
            if matches and "withdrawn" not in advisory:
                events = chain.from_iterable(chain.from_iterable(map(_ranges, matches)))
                fixes = [event["fixed"] for event in events if "fixed" in event]
                ids = [advisory["id"], *advisory.get("aliases", [])]
                lines.append(_line(name, version, ids, fixes))
    return Audit(tuple(lines), tuple(name for name, _, _ in packages), ())


def affects(entry: dict[str, Any], version: str) -> bool:
    """Return whether an entry of `affected` lists a version or has a range that includes it.

    See "Evaluation" in https://ossf.github.io/osv-schema/.
    """
    return version in entry.get("versions", []) or any(
        _within(Version(version), events) for events in _ranges(entry)
    )


def _ranges(entry: dict[str, Any]) -> list[list[dict[str, str]]]:
    ranges = entry.get("ranges", [])
    return [bounds["events"] for bounds in ranges if bounds["type"] == "ECOSYSTEM"]


def _within(version: Version, events: list[dict[str, str]]) -> bool:
    inside = False
    for event in events:  # in the order of their versions
        [(kind, limit)] = event.items()
        if version > Version(limit) or (version == Version(limit) and kind != "last_affected"):
            inside = kind == "introduced"
    return inside


def _line(name: str, version: str, ids: list[str], fixes: list[str]) -> str:
    return f"{name} {version}: {', '.join(ids)}; fixed in {' or '.join(fixes) or 'none yet'}"


def main() -> int:
    """Write the SBOMs and print the advisories; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/write sbom", description=__doc__)
    parser.add_argument("--strict", action="store_true", help="fail if a package was not audited")
    parser.add_argument(
        "--database", type=Path, metavar="FOLDER", help="search a clone of the database, not PyPI"
    )
    options = parser.parse_args()
    status = 0
    for name in NAMES:
        requirements = ROOT / "docker" / f"requirements-{name}.txt"
        to = ROOT / "build" / "sbom" / f"{name}.cdx.json"
        try:
            print(f"{to.relative_to(ROOT)}: {sbom(requirements, to)} components")
            if options.database:
                audit = search_database(requirements, options.database)
            else:
                audit = ask_pypi(requirements)
        except (ValueError, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr)
            return 1
        for line in audit.advisories:
            print(line, file=sys.stderr)
        if not audit.audited:
            print(f"{name}: no package was audited, because PyPI returned no advisories")
        else:
            skipped = f"; not audited: {', '.join(audit.skipped)}" if audit.skipped else ""
            count = len(audit.advisories)
            print(f"{name}: {count} advisories on {len(audit.audited)} packages{skipped}")
        status = max(status, audit.status(options.strict))
    return status


if __name__ == "__main__":
    sys.exit(main())
