"""Checks of numbers that limit a run."""

from __future__ import annotations

import operator
from typing import Any

from ._errors import InvalidRequest
from ._validation import excerpt


def is_whole(value: Any, least: int) -> bool:
    """Return whether a value is a whole number of at least `least`."""
    try:
        return operator.index(value) >= least
    except TypeError:
        return False


def check_counts(**counts: Any) -> None:
    """Raise `InvalidRequest` for a count that is not a whole number of 1 or more."""
    for name, value in counts.items():
        if not is_whole(value, 1):
            raise InvalidRequest(
                f"{name} is {excerpt(value)}; a whole number of 1 or more is expected"
            )


def check_shard(shard: Any) -> None:
    """Raise `InvalidRequest` unless `shard` is a pair (I, N) with I from 0 to N - 1."""
    pair = isinstance(shard, (tuple, list)) and len(shard) == 2
    if not (pair and is_whole(shard[0], 0) and is_whole(shard[1], shard[0] + 1)):
        raise InvalidRequest(
            f"shard is {excerpt(shard)}; (I, N) with whole numbers, I from 0 to N - 1, is expected"
        )
