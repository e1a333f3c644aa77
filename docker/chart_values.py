"""Write the chart's page with a table of its values: `python -m docker.chart_values`.

The table has the values and the comments of values.yaml. `scripts/write chart` writes the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "helm" / "maisi"
HEAD = """\
# Chart maisi

This page is for operators who run a MAISI server on Kubernetes 1.30 or newer.
[docs/how-to/operations.md](../../../docs/how-to/operations.md#kubernetes) describes how the chart
works. `models.source: oci` needs the feature gate ImageVolume, which Kubernetes has since 1.31 and
enables by default since 1.35. `scripts/write chart` writes this page from values.yaml.

```bash
helm install maisi docker/helm/maisi --namespace imaging \\
  --values docker/helm/maisi/profiles/cpu.yaml
```

`profiles/` has values for common machines: `cpu` (mini on two pods), `l4` and `a100` (one GPU per
pod), `kserve`, and `dataset` (a Job that makes a dataset). values.schema.json rejects wrong values
and unknown names.

"""


@dataclass(frozen=True)
class Value:
    """A value of the chart: its path, its default as YAML ("" for a group) and its comment."""

    path: str
    default: str
    comment: str


def read(text: str) -> list[Value]:
    """Return the values in the text of values.yaml, in order, with a group before its members.

    Raises ValueError if a default takes more than one line.
    """
    return list(_members(yaml.compose(text, yaml.SafeLoader), text.splitlines(), ""))


def _members(mapping: Any, lines: list[str], prefix: str) -> Iterator[Value]:
    for key, value in mapping.value:
        path = prefix + key.value
        is_group = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = key.end_mark if is_group else value.end_mark
        first_line = value.start_mark.line
        if not is_group and first_line != end.line:
            raise ValueError(f"values.yaml: {path} takes more than one line")
        _, _, beside = lines[end.line][end.column :].partition("# ")
        comment = beside or _comment_above(lines, key.start_mark.line)
        default = "" if is_group else lines[first_line][value.start_mark.column : end.column]
        yield Value(path, default, comment)
        if is_group:
            yield from _members(value, lines, f"{path}.")


def _comment_above(lines: list[str], line: int) -> str:
    words: list[str] = []
    while line and lines[line - 1].lstrip().startswith("# "):
        line -= 1
        words.insert(0, lines[line].lstrip().removeprefix("# "))
    return " ".join(words)


def page(text: str) -> str:
    """Return the page for the text of values.yaml."""
    return HEAD + table(text)


def table(text: str) -> str:
    """Return the table of the values in the text of values.yaml."""
    rows = ["| value | default | meaning |\n|---|---|---|\n"]
    for value in read(text):
        if not value.default and not value.comment:
            continue  # a group without a comment
        default = f"`{value.default}`" if value.default else ""
        cells = (f"`{value.path}`", default, value.comment)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return "".join(rows)


if __name__ == "__main__":
    (CHART / "README.md").write_text(page((CHART / "values.yaml").read_text()))
