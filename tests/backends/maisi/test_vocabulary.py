"""Masks whose ids are not MAISI's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.maisi.errors import InvalidRequest
from backends.maisi.vocabulary import id_mapping, remap

Variant = dict[str, Any]
OTHER = [0, 3, 5, *[0] * 252, 200]
VARIANT: Variant = {"vocabularies": {"other": OTHER, "more": [0, 4]}}


def named(*names: str | bytes) -> dict[str, Any]:
    return {"vocabulary": np.array(names, dtype=object)}


@pytest.mark.parametrize("inputs", [{}, named("maisi"), named(b"maisi")])
@pytest.mark.parametrize("variant", [VARIANT, {}])
def test_maisi_ids_need_no_mapping(variant: Variant, inputs: dict[str, Any]) -> None:
    assert id_mapping(variant, inputs) is None


def test_every_id_becomes_the_one_of_its_vocabulary() -> None:
    mapping = id_mapping(VARIANT, named(b"other"))
    assert mapping is not None
    mask = np.array([[[0, 1], [2, 255]], [[255, 255], [1, 0]]], np.uint8)
    mapped = remap(mask, mapping)
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == [[[0, 3], [5, 200]], [[200, 200], [3, 0]]]
    assert mask[0, 0, 1] == 1


@pytest.mark.parametrize(
    ("variant", "name", "sentence"),
    [
        (VARIANT, "totl\n", r"^vocabulary: 'totl\\n' is not one of maisi, other, more$"),
        ({}, "other", "^vocabulary: 'other' is not one of maisi$"),
        (VARIANT, b"\xff", "^vocabulary: .* is not text in UTF-8$"),
    ],
)
def test_an_unknown_vocabulary_is_refused(
    variant: Variant, name: str | bytes, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        id_mapping(variant, named(name))


def test_one_mask_has_one_vocabulary() -> None:
    with pytest.raises(InvalidRequest, match=r"vocabulary: shape \[2\], but \[1\] is allowed"):
        id_mapping(VARIANT, named("other", "more"))


def test_ids_that_the_vocabulary_lacks_are_listed() -> None:
    mapping = id_mapping(VARIANT, named("other"))
    assert mapping is not None
    mask = np.array([[[0, 9]], [[1, 254]]], np.uint8)
    sentence = "^mask: holds 9, 254, and the ids of its vocabulary are 0, 1, 2, 255$"
    with pytest.raises(InvalidRequest, match=sentence):
        remap(mask, mapping)
