"""Write the version to every file that cannot import it: `python -m docker.version`.

To change the version, edit VERSION in backends/maisi/__init__.py. The server's reports and, for the
package maisi-triton, hatchling read it there. `scripts/write version` copies it to other files.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("backends/maisi/__init__.py")
IMAGE = r'^.* org\.opencontainers\.image\.version="'
VALUES = r"^\| `image\.tag` \| `|`maisi-(?:client|export):"  # in a table of the chart's values
# For each file, the pattern of the text before the version in a line.
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
    """Return the version in SOURCE of a checkout."""
    match = re.search(rf'^VERSION = "({_VERSION})"', (root / SOURCE).read_text(), re.MULTILINE)
    assert match, SOURCE
    return match[1]


def copies(root: Path = ROOT) -> dict[Path, list[str]]:
    """Return the versions in each file of PREFIXES, in order."""
    return {
        path: re.findall(rf"(?:{prefix})({_VERSION})", (root / path).read_text(), re.MULTILINE)
        for path, prefix in PREFIXES.items()
    }


def write(root: Path = ROOT) -> None:
    """Write the version in SOURCE to each file of PREFIXES."""
    version = current(root)
    for path, prefix in PREFIXES.items():
        text = (root / path).read_text()
        pattern = re.compile(rf"({prefix}){_VERSION}", re.MULTILINE)
        (root / path).write_text(pattern.sub(rf"\g<1>{version}", text))


if __name__ == "__main__":
    write()
