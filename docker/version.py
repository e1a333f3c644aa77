"""The version, in every file that cannot read it: `python -m docker.version`.

VERSION in backends/maisi/__init__.py is the one to edit. The server's reports read it there, and so
does hatchling for the package maisi-triton. `scripts/write version` copies it into other files.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("backends/maisi/__init__.py")
IMAGE = r'^.* org\.opencontainers\.image\.version="'
VALUES = r"^\| `image\.tag` \| `|`maisi-(?:client|export):"  # of the table of the chart
# File -> pattern of what is before the version in a line of it.
PREFIXES = {
    Path("CITATION.cff"): "^version: ",
    Path("client/pyproject.toml"): '^version = "',
    Path("docker/Dockerfile"): IMAGE,
    Path("docker/Dockerfile.client"): IMAGE,
    Path("docker/Dockerfile.cpu"): IMAGE,
    Path("docker/helm/maisi/Chart.yaml"): "^(?:version|appVersion): ",
    Path("docker/helm/maisi/README.md"): VALUES,
    Path("docker/helm/maisi/values.yaml"): "^  tag: | image: maisi-(?:client|export):",
    Path("docs/how-to/operations.md"): "(?:-t |example/)maisi(?:-client|-cpu|-export)?:",
    Path("docs/reference/configuration.md"): VALUES,
    Path("docs/reference/report.md"): '"(?:maisi|client)": "',
    Path("docs/tutorials/cluster.md"): "maisi-cpu:",
}
_VERSION = r"[\w.+!-]+"


def current(root: Path = ROOT) -> str:
    """Return the version that a checkout has in SOURCE."""
    found = re.search(rf'^VERSION = "({_VERSION})"', (root / SOURCE).read_text(), re.MULTILINE)
    assert found, SOURCE
    return found[1]


def copies(root: Path = ROOT) -> dict[Path, list[str]]:
    """Return the versions in each file of PREFIXES, in order."""
    return {
        path: re.findall(rf"(?:{prefix})({_VERSION})", (root / path).read_text(), re.MULTILINE)
        for path, prefix in PREFIXES.items()
    }


def write(root: Path = ROOT) -> None:
    """Write the version of SOURCE into each file of PREFIXES."""
    version = current(root)
    for path, prefix in PREFIXES.items():
        text = (root / path).read_text()
        pattern = re.compile(rf"({prefix}){_VERSION}", re.MULTILINE)
        (root / path).write_text(pattern.sub(rf"\g<1>{version}", text))


if __name__ == "__main__":
    write()
