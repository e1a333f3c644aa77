"""The chart's README is up to date with values.yaml, and the schema knows every value in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from docker import chart_values
from tests.docker.chart import CHART

TEXT = """\
# About the file.

# Of a pod.
group:
  size: {cpu: "4"} # a | b
  # Where it is.
  # In two lines.
  place: ""
alone: [1, 2]
"""


def test_the_readme_is_up_to_date() -> None:
    page = chart_values.page((CHART / "values.yaml").read_text())
    assert page == (CHART / "README.md").read_text(), "run scripts/write chart"


def test_a_value_has_its_default_and_the_comment_beside_or_above_it() -> None:
    assert [(one.path, one.default, one.comment) for one in chart_values.read(TEXT)] == [
        ("group", "", "Of a pod."),
        ("group.size", '{cpu: "4"}', "a | b"),
        ("group.place", '""', "Where it is. In two lines."),
        ("alone", "[1, 2]", ""),
    ]
    assert '| `group.size` | `{cpu: "4"}` | a \\| b |\n' in chart_values.page(TEXT)
    with pytest.raises(ValueError, match=r"group\.a takes more than one line"):
        chart_values.read("group:\n  a: [1,\n    2]\n")


def test_every_value_is_explained() -> None:
    values = chart_values.read((CHART / "values.yaml").read_text())
    assert [one.path for one in values if one.default and not one.comment] == []


def test_the_schema_has_the_values_and_no_others() -> None:
    values = chart_values.read((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def names(properties: dict[str, Any], prefix: str) -> Iterator[str]:
        for name, member in properties.items():
            yield prefix + name
            if prefix + name in groups:
                assert member["additionalProperties"] is False
                yield from names(member["properties"], f"{prefix}{name}.")

    groups = {one.path for one in values if not one.default}
    assert sorted(names(schema["properties"], "")) == sorted(
        ["global", *(one.path for one in values)]
    )
