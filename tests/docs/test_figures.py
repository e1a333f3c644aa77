"""The diagrams of the documentation are up to date; they and the charts are legible."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from docs.figures import FIGURES, IMAGES
from tests.client.studio.chromium import chromium

PICTURES = sorted(path.name for path in IMAGES.glob("*.svg"))
# The boxes of all texts, and what a rectangle has of them: x, y, right and lower end.
_BOXES = """() => {
  const box = (element) => {
    const {x, y, width, height} = element.getBBox()
    return [x, y, x + width, y + height]
  }
  const all = (kind) => [...document.querySelectorAll(kind)]
  return {
    texts: all('text').map((text) => [text.textContent, box(text)]),
    rectangles: all('rect').map(box),
  }
}"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with chromium() as browser:
        yield browser.new_page()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_up_to_date(name: str) -> None:
    assert (IMAGES / name).read_text() == FIGURES[name](), "run scripts/write figures"


@pytest.mark.parametrize("name", PICTURES)
def test_texts_neither_overlap_nor_cross_a_border(name: str, tab: Any) -> None:
    tab.goto((IMAGES / name).as_uri())
    boxes = tab.evaluate(_BOXES)
    assert boxes["texts"]
    for (one, a), (other, b) in combinations(boxes["texts"], 2):
        is_apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert is_apart, f"{one} and {other} overlap"
    for words, (left, top, right, bottom) in boxes["texts"]:
        for x, y, end, lower in boxes["rectangles"]:
            is_inside = x <= left and right <= end and y <= top and bottom <= lower
            is_outside = right <= x or end <= left or bottom <= y or lower <= top
            assert is_inside or is_outside, f"{words} crosses a border"
