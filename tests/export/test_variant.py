"""What a TOML file must say."""

from pathlib import Path

import pytest

from export import variant
from export.variant import VARIANTS


def test_every_variant_loads() -> None:
    assert "mini" in variant.names()
    for name in variant.names():
        assert variant.load(name).name == name


def test_the_parameter_holds_what_a_client_asks_for() -> None:
    parameter = variant.load("mini").parameter({"autoencoder": "0"})
    assert parameter["modalities"]["mri_t1_skull_stripped"] == 29
    assert parameter["labels"]["0"] == "background"
    assert parameter["weights"] == {"autoencoder": "0"}
    assert parameter["license"] == "Apache-2.0"


def test_an_unknown_variant_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'maxi' is not one of .*mini"):
        variant.load("maxi")


@pytest.mark.parametrize(
    ("line", "instead", "sentence"),
    [
        ("multiple = 16", "multiple = 8", "size.multiple must be a multiple of 16"),
        ("176 = 22", "176 = 23", "labels must lie in 0..255"),
        ('modality = "mri_t1"', 'modality = "ct"', "'ct' is not one of its modalities"),
        ("[serving.latent]", "[serving.other]", "'latent' is missing"),
        ('name = "mini"', 'nome = "mini"', "nome"),
    ],
)
def test_a_contradiction_is_named(tmp_path: Path, line: str, instead: str, sentence: str) -> None:
    text = (VARIANTS / "mini.toml").read_text()
    assert line in text
    (tmp_path / "mini.toml").write_text(text.replace(line, instead))
    with pytest.raises(ValueError, match=sentence):
        variant.load("mini", tmp_path)
