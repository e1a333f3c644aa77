"""Nouns agree with their numbers."""

from __future__ import annotations

import pytest
from maisi_client._counted import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 anatomies"), (1, "1 anatomy"), (2, "2 anatomies")]
)
def test_the_noun_agrees_with_the_number(number: int, text: str) -> None:
    assert counted(number, "anatomy", "anatomies") == text


def test_a_plural_ends_in_s_by_default() -> None:
    assert (counted(1, "row"), counted(2, "row")) == ("1 row", "2 rows")
