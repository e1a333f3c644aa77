"""A row of a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._errors import InvalidRequest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Row:
    """A volume to make: its name, and the arguments of `Client.generate`.

    `license` has the terms of the data that the row was derived from, if any. Rows of one `group`
    show one anatomy. A row without a group gets one when a plan or a dataset is made.
    """

    name: str
    arguments: Mapping[str, Any]
    license: str = ""
    group: str = ""


def check_names(rows: Sequence[Row]) -> None:
    """Raise `InvalidRequest` if two rows have the same name, which their files would share."""
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows):
        if (first := numbers.setdefault(row.name, number)) != number:
            raise InvalidRequest(
                f"rows {first} and {number} have the name '{row.name}'; each row needs its own name"
            )
