"""A row of a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Row:
    """A volume to make: its name, and the arguments of `Client.generate`.

    `license` names the terms of the data that the row was drawn from, if any. Rows of one `group`
    show one anatomy; without a group, `assign_groups` finds it.
    """

    name: str
    arguments: Mapping[str, Any]
    license: str = ""
    group: str = ""
