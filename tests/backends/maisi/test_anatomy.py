"""The inputs `anatomy` and `organs`, and the sentences for invalid ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.maisi import anatomy
from backends.maisi.errors import InvalidRequest

Variant = dict[str, Any]


def text_input(name: str, value: str | bytes) -> dict[str, Any]:
    return {name: np.array([value.encode() if isinstance(value, str) else value], dtype=object)}


def test_absent_inputs_give_none(regional: Variant) -> None:
    assert anatomy.parse(regional, {}) is None
    assert anatomy.parse_organs(regional, {}) is None


@pytest.mark.parametrize(
    ("request_text", "sizes"),
    [
        ("liver=0.3", (0.5, 0.3, 0.5, 0.5, 0.5, -1, -1, -1, -1, -1)),
        (" hepatic tumor = 1 ,liver=0", (0.5, 0, 0.5, 0.5, 0.5, -1, -1, 1, -1, -1)),
        ("bone lesion=2e-1, gallbladder=-1", (-1, 0.5, 0.5, 0.5, 0.5, -1, -1, -1, -1, 0.2)),
        ("colon cancer primaries=-1.0,colon=0.1", (0.5, 0.5, 0.5, 0.5, 0.1, -1, -1, -1, -1, -1)),
    ],
)
def test_sizes_by_name_and_the_defaults(
    regional: Variant, request_text: str, sizes: tuple[float, ...]
) -> None:
    assert anatomy.parse(regional, text_input("anatomy", request_text)) == sizes


def test_every_name_has_its_index(regional: Variant) -> None:
    names = ["gallbladder", "liver", "stomach", "pancreas", "colon"]
    for index, name in enumerate(names):
        sizes = anatomy.parse(regional, text_input("anatomy", f"{name}=0.25"))
        assert sizes is not None
        assert sizes[index] == 0.25
    assert anatomy.lesions(regional, anatomy.complete_sizes(regional, {})) == ()
    tumours = {"lung tumor": 23, "pancreatic tumor": 24, "hepatic tumor": 26}
    tumours |= {"colon cancer primaries": 27, "bone lesion": 128}
    for index, (name, label) in enumerate(tumours.items(), 5):
        sizes = anatomy.parse(regional, text_input("anatomy", f"{name}=0"))
        assert sizes is not None
        assert sizes[index] == 0
        assert anatomy.lesions(regional, sizes) == (label,)


TABLE = [
    [0.1, 0.9, 0.1, 0.1, 0.1, -1, -1, 0.4, -1, -1],
    [0.2, 0.4, 0.2, 0.2, 0.2, -1, -1, -1, -1, -1],
    [0.3, 0.6, 0.3, 0.3, 0.3, 0.5, -1, -1, -1, 0.5],
    [0.4, 0.4, 0.4, 0.4, 0.4, -1, -1, -1, -1, -1],
]


@pytest.mark.parametrize(
    ("explicit", "row"),
    [
        ({}, 0),
        ({"liver": 0.4}, 1),  # row 3 is as near
        ({"liver": 0.7}, 2),
        ({"liver": 0.4, "colon": 0.5}, 3),
        ({"liver": 0.4, "hepatic tumor": 0.4}, 0),
        ({"liver": 0.4, "gallbladder": -1}, 1),
    ],
)
def test_the_nearest_row_gives_the_other_sizes(
    regional: Variant, explicit: dict[str, float], row: int
) -> None:
    original = [list(sizes) for sizes in TABLE]
    expected = dict(zip(anatomy.names(regional), TABLE[row], strict=True)) | explicit
    with_table = regional | {"anatomy_sizes": TABLE}
    assert anatomy.complete_sizes(with_table, explicit) == tuple(expected.values())
    assert original == TABLE


def test_a_requested_tumour_is_the_only_one(regional: Variant) -> None:
    with_table = regional | {"anatomy_sizes": TABLE}
    sizes = anatomy.complete_sizes(with_table, {"liver": 0.6, "lung tumor": 0.5})
    assert sizes == (0.3, 0.6, 0.3, 0.3, 0.3, 0.5, -1, -1, -1, -1)
    assert anatomy.lesions(with_table, sizes) == (23,)
    absent = text_input("anatomy", "liver=0.6, bone lesion=-1, lung tumor=0.5, hepatic tumor=-1")
    assert anatomy.parse(with_table, absent) == sizes


def test_the_table_is_the_variants(regional: Variant) -> None:
    sizes = anatomy.parse(regional | {"anatomy_sizes": TABLE}, text_input("anatomy", "liver=0.8"))
    assert sizes == (0.1, 0.8, *TABLE[0][2:])


def test_of_two_tumours_in_a_row_the_last_counts(regional: Variant) -> None:
    assert anatomy.lesions(regional, TABLE[2]) == (128,)


def test_the_names_and_defaults_are_the_variants(head: Variant) -> None:
    assert anatomy.names(head) == ["ventricles", "white matter hyperintensity", "brain tumor"]
    sizes = anatomy.parse(head, text_input("anatomy", "brain tumor=0.2"))
    assert sizes == (0.3, -1, 0.2)
    assert anatomy.lesions(head, sizes) == (176,)
    both = text_input("anatomy", "white matter hyperintensity=0, brain tumor=1")
    sizes = anatomy.parse(head, both)
    assert sizes == (0.3, 0, 1)
    assert anatomy.lesions(head, sizes) == (150, 176)


@pytest.mark.parametrize(
    ("request_text", "sentence"),
    [
        ("liver=0.5", "anatomy: 'liver' is not one of ventricles, white matter hyperintensity, br"),
        ("ventricle", "anatomy: 'ventricle' is not name=size, such as ventricles=0.5"),
        ("", "anatomy: empty, but name=size is needed, names being ventricles, white matter"),
    ],
)
def test_errors_have_the_names_of_the_variant(
    head: Variant, request_text: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        anatomy.parse(head, text_input("anatomy", request_text))


TEN = "gallbladder, liver, stomach, pancreas, colon, lung tumor, pancreatic tumor, hepatic tumor"
TEN += ", colon cancer primaries, bone lesion"

BAD = {
    "": f"anatomy: empty, but name=size is needed, names being {TEN}$",
    " ": "anatomy: empty",
    "liver": "anatomy: 'liver' is not name=size, such as liver=0.5",
    "liver=0.5,": "anatomy: '' is not name=size",
    "liver=0.5; colon": "anatomy: liver has the size '0.5; colon', but allowed",
    "spleen=0.5": f"anatomy: 'spleen' is not one of {TEN}$",
    "=0.5": "anatomy: '' is not one of",
    "Liver=0.5": "anatomy: 'Liver' is not one of",
    "liver=": "anatomy: liver has the size '', but allowed are 0 to 1, or -1 for absent",
    "liver=big": "anatomy: liver has the size 'big', but",
    "liver=1.01": "anatomy: liver has the size '1.01', but allowed",
    "liver=-0.5": "anatomy: liver has the size '-0.5', but",
    "liver=nan": "anatomy: liver has the size 'nan', but",
    "liver=-inf": "anatomy: liver has the size '-inf', but",
    "liver=0.5=1": "anatomy: liver has the size '0.5=1', but",
    "colon=1\n\n2": r"anatomy: colon has the size '1\\n\\n2', but",
    "liver=0.5, colon=1, liver=0.5": "anatomy: liver is given twice, and once is allowed",
    "lung tumor=0.5, liver=1, bone lesion=0": (
        "anatomy: lung tumor, bone lesion are 2 tumours, and at most one is allowed"
    ),
    "x" * 501: "anatomy: 501 characters, and at most 500 are allowed",
}


@pytest.mark.parametrize(("request_text", "sentence"), BAD.items())
def test_an_invalid_anatomy_gets_one_sentence(
    regional: Variant, request_text: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        anatomy.parse(regional, text_input("anatomy", request_text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_one_text_in_utf8(regional: Variant) -> None:
    with pytest.raises(InvalidRequest, match=r"anatomy: .* is not text in UTF-8"):
        anatomy.parse(regional, text_input("anatomy", b"\xff"))
    with pytest.raises(InvalidRequest, match=r"organs: shape \[2\], but \[1\] is allowed"):
        anatomy.parse_organs(regional, {"organs": np.array([b"liver", b"body"], dtype=object)})


def test_the_longest_text_fits_the_limit(regional: Variant) -> None:
    names = anatomy.names(regional)[:6]
    request_text = ", ".join(f"{name}=0.3333333333333333" for name in names)
    assert anatomy.parse(regional, text_input("anatomy", request_text)) == (1 / 3,) * 6 + (-1,) * 4


@pytest.mark.parametrize(
    ("request_text", "ids"),
    [
        ("liver", (1,)),
        ("body,  liver ,22", (200, 1, 22)),
        ("1, liver, 93, 1", (1, 93)),
        ("left lung upper lobe, background", (28, 0)),
    ],
)
def test_labels_to_keep_by_name_or_id(
    regional: Variant, request_text: str, ids: tuple[int, ...]
) -> None:
    assert anatomy.parse_organs(regional, text_input("organs", request_text)) == ids


@pytest.mark.parametrize(
    ("request_text", "sentence"),
    [
        (
            "",
            "organs: '' is neither the name nor the id of a label of regional; ",
        ),
        ("liver, lungs", "organs: 'lungs' is neither .*; the closest names are .*lung"),
        ("lung tumour\n", "organs: 'lung tumour' is .* closest names are lung tumor, "),
        ("brian", "organs: 'brian' is neither the name nor .* the closest names are brain, "),
        ("2", "organs: '2' is neither the name nor the id"),
        ("01", "organs: '01' is neither the name nor the id"),
        ("x" * 4001, "organs: 4001 characters, and at most 4000 are allowed"),
    ],
)
def test_unknown_labels_are_refused(regional: Variant, request_text: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        anatomy.parse_organs(regional, text_input("organs", request_text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_selected_labels_keep_their_ids() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 4, 8)
    out = anatomy.select_labels(mask, (200, 1, 255))
    assert out.dtype == np.uint8
    assert out.shape == (8, 4, 8)
    assert np.flatnonzero(out).tolist() == [1, 200, 255]
    assert (out[out > 0] == mask[out > 0]).all()
    assert mask[0, 0, 2] == 2
    assert not anatomy.select_labels(mask, ()).any()
