"""What is in the images, and what is known of it: `scripts/write sbom`.

For each docker/requirements-*.txt a CycloneDX SBOM goes to build/sbom/, and pip-audit asks PyPI for
advisories. PyPI's mirrors often have none: pip-audit then finds nothing, so what was not
asked about is told apart from what is fine. Without the internet, a clone of PyPA's database,
github.com/pypa/advisory-database, is read in place of asking.
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
Locked = tuple[str, str, str]  # a package's name as PyPI normalises it, version, sha256


@dataclass(frozen=True)
class Audit:
    """What is known: lines for people, and packages that were asked about and that were not."""

    found: tuple[str, ...]
    asked: tuple[str, ...]
    skipped: tuple[str, ...]

    def status(self, strict: bool) -> int:
        """Return 1 where an advisory was found, or `strict` and not all was asked; else 0."""
        return int(bool(self.found) or (strict and (bool(self.skipped) or not self.asked)))


def locked(requirements: Path) -> set[Locked]:
    """Return what a file locks; raise ValueError for a line without its version and digest."""
    packages = set()
    for line in requirements.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        parts = re.fullmatch(r"(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})", line)
        if not parts:
            raise ValueError(
                f"{requirements.name}: {line!r} is not NAME==VERSION --hash=sha256:..."
            )
        packages.add((normalised(parts[1]), parts[2], parts[3]))
    return packages


def normalised(name: str) -> str:
    """Return a package's name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def sbom(requirements: Path, to: Path) -> int:
    """Write the SBOM of a file, and return how many components it has.

    Raises ValueError when a locked package is missing or is another; CalledProcessError when
    cyclonedx-py fails, which also checks the SBOM by CycloneDX's schema.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "requirements", "--validate"),
            *("--output-reproducible", "--output-file", str(to), str(requirements)),
        ],
        check=True,
    )
    wanted, told = locked(requirements), components(json.loads(to.read_bytes()))
    if wanted != told:
        strange = ", ".join(sorted(name for name, _, _ in wanted ^ told))
        raise ValueError(f"{to.name} is not what {requirements.name} locks: {strange}")
    return len(told)


def components(bom: dict[str, Any]) -> set[Locked]:
    """Return the packages that an SBOM names, a digest each."""
    return {
        (normalised(component["name"]), component["version"], digest["content"])
        for component in bom.get("components", [])
        for reference in component.get("externalReferences", [])
        for digest in reference.get("hashes", [])
        if digest["alg"] == "SHA-256"
    }


def judged(report: dict[str, Any]) -> Audit:
    """Read pip-audit's JSON."""
    found, asked, skipped = [], [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            skipped.append(package["name"])
            continue
        asked.append(package["name"])
        for advisory in package["vulns"]:
            names, fixed = [advisory["id"], *advisory["aliases"]], advisory["fix_versions"]
            found.append(_line(package["name"], package["version"], names, fixed))
    return Audit(tuple(found), tuple(asked), tuple(skipped))


def advisories(requirements: Path) -> Audit:
    """Ask PyPI about what a file locks; nothing is asked where it cannot be reached."""
    told = subprocess.run(
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
        return judged(json.loads(told.stdout))
    except ValueError:  # it ended with an error instead
        return Audit((), (), tuple(sorted(name for name, _, _ in locked(requirements))))


def looked_up(requirements: Path, database: Path) -> Audit:
    """Look up what a file locks in a clone of PyPA's advisory database.

    Raises ValueError where the folder is none.
    """
    if not (database / "vulns").is_dir():
        raise ValueError(f"{database} is no clone of github.com/pypa/advisory-database")
    found, packages = [], sorted(locked(requirements))
    for name, version, _ in packages:
        for path in sorted((database / "vulns" / name).glob("*.yaml")):
            advisory = yaml.safe_load(path.read_text())
            hit = [each for each in advisory["affected"] if affects(each, version)]
            if hit and "withdrawn" not in advisory:
                events = chain.from_iterable(chain.from_iterable(map(_ranges, hit)))
                fixed = [event["fixed"] for event in events if "fixed" in event]
                names = [advisory["id"], *advisory.get("aliases", [])]
                found.append(_line(name, version, names, fixed))
    return Audit(tuple(found), tuple(name for name, _, _ in packages), ())


def affects(affected: dict[str, Any], version: str) -> bool:
    """Tell whether an entry of `affected` names a version, or has it in one of its ranges.

    As https://ossf.github.io/osv-schema/ says, "Evaluation".
    """
    asked = Version(version)
    return version in affected.get("versions", []) or any(
        _within(asked, events) for events in _ranges(affected)
    )


def _ranges(affected: dict[str, Any]) -> list[list[dict[str, str]]]:
    return [each["events"] for each in affected.get("ranges", []) if each["type"] == "ECOSYSTEM"]


def _within(version: Version, events: list[dict[str, str]]) -> bool:
    inside = False
    for event in events:  # in the order of their versions
        [(kind, at)] = event.items()
        if version > Version(at) or (version == Version(at) and kind != "last_affected"):
            inside = kind == "introduced"
    return inside


def _line(name: str, version: str, advisories: list[str], fixed: list[str]) -> str:
    return f"{name} {version}: {', '.join(advisories)}; fixed in {' or '.join(fixed) or 'none yet'}"


def main() -> int:
    """Write and ask; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/write sbom", description=__doc__)
    parser.add_argument("--strict", action="store_true", help="fail where not all could be asked")
    parser.add_argument("--database", type=Path, metavar="FOLDER", help="read it, ask nobody")
    options = parser.parse_args()
    status = 0
    for name in NAMES:
        requirements = ROOT / "docker" / f"requirements-{name}.txt"
        to = ROOT / "build" / "sbom" / f"{name}.cdx.json"
        try:
            print(f"{to.relative_to(ROOT)}: {sbom(requirements, to)} components")
            if options.database:
                audit = looked_up(requirements, options.database)
            else:
                audit = advisories(requirements)
        except (ValueError, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr)
            return 1
        for line in audit.found:
            print(line, file=sys.stderr)
        if not audit.asked:
            print(f"{name}: advisories were not asked for: PyPI's are not within reach")
        else:
            silent = f", not about {', '.join(audit.skipped)}" if audit.skipped else ""
            print(f"{name}: {len(audit.found)} advisories on {len(audit.asked)} packages{silent}")
        status = max(status, audit.status(options.strict))
    return status


if __name__ == "__main__":
    sys.exit(main())
