"""The table of labels: complete, and without wrong codes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from maisi_client._anatomy import NAMES, SYNONYMS, Anatomy, anatomy_of, category_of
from pydicom.sr._concepts_dict import concepts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
ANATOMIES = {name: anatomy for name in NAMES.values() if (anatomy := anatomy_of(name))}
CODES = {
    code for a in ANATOMIES.values() for code in (a.type, a.category, a.region, a.side) if code
}
PS3_16 = {
    value: meaning
    for versions in concepts["SCT"].values()
    for value, (meaning, _) in versions.items()
}


def valid(value: str) -> bool:
    """Return whether the last digit is Verhoeff's check digit, which every id of SNOMED CT has."""

    def times(i: int, j: int) -> int:  # in the dihedral group of ten elements
        return (i + j if i < 5 else i - j) % 5 + 5 * ((i < 5) ^ (j < 5))

    shuffle = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    check = 0
    for place, digit in enumerate(map(int, reversed(value))):
        for _ in range(place % 8):
            digit = shuffle[digit]
        check = times(check, digit)
    return check == 0


def test_check_digits() -> None:
    assert valid("10200004") and not valid("10200005") and not valid("12000004")
    assert [code for code in CODES if not valid(code[0])] == []
    assert all(valid(value) for pair in SYNONYMS.items() for value in pair)


def test_no_code_is_of_the_other_side() -> None:
    """PS3.16 has codes of one side alone beside those of both."""
    names = {value: PS3_16[value].lower() for value, _ in CODES if value in PS3_16}
    assert len(names) > 80
    for value, meaning in CODES:
        for side in ("left", "right"):
            assert (side in names.get(value, meaning).lower()) == (side in meaning.lower()), meaning


def test_each_label_has_its_own_anatomy() -> None:
    assert len(set(ANATOMIES.values())) == len(ANATOMIES)
    assert set(NAMES.values()) == set(ANATOMIES)
    assert anatomy_of("left gizmo") is None and anatomy_of("") is None
    kidney = anatomy_of("left kidney")
    assert kidney == Anatomy(("64033007", "Kidney"), side=("7771000", "Left"))


def test_a_lesion_is_morphologically_abnormal() -> None:
    abnormal = ("49755003", "Morphologically Abnormal Structure")
    lesions = {name for name in NAMES.values() if category_of(name) == abnormal}
    assert lesions == {
        *("lung tumor", "pancreatic tumor", "hepatic tumor", "brain tumor", "kidney mass"),
        *("colon cancer primaries", "left kidney cyst", "right kidney cyst", "bone lesion"),
        "white matter hyperintensity",
    }
    for name in ("enhancing_tumor", "Peritumoral oedema", "2 lung nodules", "Metastases"):
        assert category_of(name) == abnormal
    for name in ("gizmo", "masseter muscle", "cystic duct", "liver", ""):
        assert category_of(name) != abnormal


@pytest.mark.parametrize("variant", ["mini", "rflow-ct", "ddpm-ct"])
def test_names_are_those_of_the_variants(variant: str) -> None:
    with (ROOT / "export" / "variants" / f"{variant}.toml").open("rb") as file:
        labels = tomllib.load(file)["serving"]["labels"]
    for id_, name in labels.items():
        if name != "background" and not name.startswith("dummy"):
            assert NAMES[int(id_)] == name
