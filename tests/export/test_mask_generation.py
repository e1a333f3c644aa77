"""The checks of a variant's mask networks and of the table that describes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import variant as variants
from export.variant import VARIANTS
from tests.export.weights import TINY, tiny


def test_the_sizes_of_ct_are_upstreams() -> None:
    rflow, ddpm = (
        variants.load(name).serving["mask_generation"] for name in ("rflow-ct", "ddpm-ct")
    )
    assert rflow == ddpm
    tumours = {size["name"]: size["label"] for size in rflow["sizes"] if size.get("tumour")}
    # ldm_conditional_sample_one_mask in scripts/sample_mask.py of NV-Generate-CTMR.
    assert tumours == {
        "lung tumor": 23,
        "pancreatic tumor": 24,
        "hepatic tumor": 26,
        "colon cancer primaries": 27,
        "bone lesion": 128,
    }


def test_what_the_server_needs_is_published() -> None:
    variant = tiny()
    published = variant.parameter({})["mask_generation"]
    assert published == variant.serving["mask_generation"]
    assert published["sizes"][1]["meaning"] == "0 is 5 ml, 1 is 80 ml"


WMH = '"white matter hyperintensity", default = -1, label = 150'


@pytest.mark.parametrize(
    ("line", "instead", "sentence"),
    [
        (
            "cross_attention_dim = 4",
            "cross_attention_dim = 5",
            "mask_generation.sizes has 4 entries, but mask_diffusion takes 5",
        ),
        ('"ventricles"', '"head size"', "mask_generation.sizes: 'head size' is given twice"),
        ('"ventricles"', '"3rd, 4th"', "'3rd, 4th' may hold neither a comma nor ="),
        ('"ventricles"', '" "', "' ' may hold neither a comma nor =, and must not be empty"),
        (
            "default = 0.3",
            "default = 1.3",
            "'ventricles' has the default 1.3, but 0 to 1 is expected, or -1 for absent",
        ),
        ("default = 0.3, ", "", "'default' is missing"),
        ("tumour = true", "tumor = true", "'brain tumor' has 'tumor', not one of name, default"),
        (WMH, f"{WMH[:-3]}151", "hyperintensity' has the label 151, not one of mask_labels"),
        (WMH, f"{WMH[:-3]}131", "has the label 131, whose organ is not in `lesions`"),
        ("default = 0.3", "default = 0.3, tumour = true", "'ventricles' is a tumour, but has no"),
        (WMH, f"{WMH}, volume = [1, 2]", "needs volume, within, and either label or labels"),
        (WMH, f"{WMH}, within = [227]", "needs volume, within, and either label or labels"),
        (WMH, f"{WMH}, labels = [214]", "needs volume, within, and either label or labels"),
        (
            WMH,
            f"{WMH}, labels = [214], volume = [1, 2], within = [227]",
            "needs volume, within, and either label or labels",
        ),
        (
            "default = 0.3",
            "default = 0.3, volume = [1, 2], within = [227]",
            "'ventricles' needs volume, within, and either label or labels",
        ),
        (
            "default = 0.3",
            "default = 0.3, labels = [214]",
            "'ventricles' needs volume, within, and either label or labels",
        ),
        (
            "default = 0.3",
            "default = 0.3, labels = [7], volume = [1, 2], within = [227]",
            "'ventricles': labels must be ids out of mask_labels",
        ),
        (
            WMH,
            f"{WMH}, volume = [2, 1], within = [227]",
            r"has the volumes \[2, 1\]; two increasing are expected",
        ),
        (WMH, f"{WMH}, volume = [1, 2], within = [7]", "within must be ids out of mask_labels"),
        ('cleanup = "head"', 'cleanup = "neck"', "cleanup: 'neck' is not one of body, head"),
        ("scattered = [120", "scattered = [121", "scattered must be ids out of `labels`"),
        ('kind = "rflow"', 'kind = "edm"', "schedule: 'edm' is not one of ddpm, rflow"),
        ('kind = "rflow"', 'kind = "ddpm"', "'beta_start' is missing"),
        ("size = [32, 48, 32]", "size = [32, 46, 32]", "but multiples of 4 are expected"),
        ("latent_channels = 4", "latent_channels = 8", "mask_autoencoder has 8 latent channels"),
        ("out_channels = 32", "out_channels = 31", "mask_labels must be 31 ids out of"),
        ("mask_labels = [", "anatomy_sizes = [[1, 2]]\nmask_labels = [", "must have 4 sizes"),
    ],
)
def test_a_contradiction_is_named(tmp_path: Path, line: str, instead: str, sentence: str) -> None:
    text = (TINY / "tiny.toml").read_text()
    assert text.count(line) == 1
    (tmp_path / "own.toml").write_text(text.replace(line, instead))
    with pytest.raises(ValueError, match=f"^own.toml: .*{sentence}") as caught:
        variants.load(tmp_path / "own.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["scattered", "cleanup", "mask_labels"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    text = (VARIANTS / "mini.toml").read_text()
    assert text.count(f"{key} = ") == 1
    (tmp_path / "mini.toml").write_text(text.replace(f"{key} = ", f"not_{key} = "))
    with pytest.raises(ValueError, match=f"^mini.toml: .*{key}"):
        variants.load("mini", tmp_path)


def test_the_sides_of_a_mask_fit_both_unets(tmp_path: Path) -> None:
    text = (VARIANTS / "rflow-ct.toml").read_text()
    (tmp_path / "rflow-ct.toml").write_text(text.replace("[256, 256, 256]", "[256, 256, 240]"))
    with pytest.raises(ValueError, match=r"size is \[256, 256, 240\], but multiples of 32 are"):
        variants.load("rflow-ct", tmp_path)
