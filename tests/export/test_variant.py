"""The checks and the content of variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export import variant as variants
from export.variant import SERVING, VARIANTS
from tests.conftest import ROOT

OFFICIAL = ["ddpm-ct", "rflow-ct", "rflow-mr", "rflow-mr-brain"]


def test_every_variant_loads() -> None:
    assert set(variants.names()) == {"mini", *OFFICIAL}
    for name in variants.names():
        assert variants.load(name).name == name


def test_the_parameter_holds_what_a_client_asks_for() -> None:
    parameter = variants.load("mini").parameter({"autoencoder": "0"})
    assert parameter["modalities"]["mri_t1_skull_stripped"] == 29
    assert parameter["labels"]["0"] == "background"
    assert parameter["weights"] == {"autoencoder": "0"}
    assert parameter["license"] == "Apache-2.0"


@pytest.mark.parametrize("name", OFFICIAL)
def test_what_is_published_is_compact(name: str) -> None:
    parameter = variants.load(name).parameter({})
    assert set(SERVING) < set(parameter)
    assert "mask_labels" not in parameter
    assert len(json.dumps(parameter)) < 10_000


def test_the_widest_activation_is_the_one_of_the_decoder() -> None:
    chain = ROOT / "model_repository" / "mini.vae_decoder" / "1" / "chain.json"
    description = json.loads(chain.read_bytes())
    sizes = [x["channels"] * x["planes"] ** 3 for x in description["activations"].values()]
    published = variants.load("mini").parameter({})["bytes_per_voxel"]
    assert published * 4**3 == description["itemsize"] * max(sizes)


def test_roles_are_those_a_variant_has() -> None:
    assert list(variants.load("rflow-mr").networks) == ["autoencoder", "diffusion_unet"]
    assert set(variants.load("rflow-ct").checkpoints) == set(variants.ROLES)
    with pytest.raises(KeyError):
        variants.load("rflow-mr-brain").networks["controlnet"]


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_file_is_pinned_on_the_hub(name: str) -> None:
    loaded = variants.load(name)
    assert loaded.license_url.startswith("https://")
    assert set(loaded.hub) == set(loaded.checkpoints)
    for role, entry in loaded.hub.items():
        assert entry["file"] == loaded.checkpoints[role]
        assert len(entry["revision"]) == 40


# docs/inference.md of NV-Generate-CTMR.
@pytest.mark.parametrize(
    ("name", "preset", "fov"),
    [
        ("rflow-mr", "brain-flair", (199.9, 250.0, 250.0)),
        ("rflow-mr", "abdomen-t1", (380.0, 308.8, 288.0)),
        ("rflow-mr-brain", "t2-axial", (240, 240, 158)),
        ("rflow-mr-brain", "swi-coronal", (230, 155, 230)),
        ("rflow-ct", "head-chest-abdomen-lower", (512 * 1.367, 512 * 1.367, 384 * 4.603)),
    ],
)
def test_presets_give_the_published_field_of_view(
    name: str, preset: str, fov: tuple[float, ...]
) -> None:
    values = variants.load(name).serving["presets"][preset]
    sides = [size * mm for size, mm in zip(values["size"], values["spacing"], strict=True)]
    assert sides == pytest.approx(fov, abs=1e-9)
    assert not any(size % 32 for size in values["size"])


def test_presets_know_the_share_of_training_data() -> None:
    presets = variants.load("ddpm-ct").serving["presets"].values()
    assert sum(preset.get("share", 0) for preset in presets) == pytest.approx(1, abs=1e-3)
    brain = variants.load("rflow-mr-brain").serving["presets"]
    assert brain["t1-sagittal"]["scans"] == 142290


def test_mask_labels_remap_the_generators_classes() -> None:
    labels = variants.load("rflow-ct").serving["mask_labels"]
    assert (len(labels), labels[0], labels[18], labels[124]) == (125, 0, 23, 200)


def test_the_type_of_a_tensor_follows_the_precision() -> None:
    brain = variants.load("rflow-ct")
    assert brain.tensor_type("embedding", "fp16") == "FP16"
    assert brain.tensor_type("embedding", "fp32") == "FP32"
    assert brain.tensor_type("class_labels", "fp16") == "INT64"
    with pytest.raises(ValueError, match=r"rflow-ct: 'salt' is not one of its tensors"):
        brain.tensor_type("salt", "fp16")
    with pytest.raises(ValueError, match=r"precision: 'int8' is not one of fp32, fp16"):
        brain.tensor_type("latent", "int8")


def test_an_unknown_variant_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'maxi' is not one of .*mini"):
        variants.load("maxi")


def test_a_file_of_ones_own_stands_on_a_shipped_variant(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(
        'base = "rflow-ct"\nname = "ward-7"\n'
        '[checkpoints]\ndiffusion_unet = "/data/tuned.pt"\n'
        "[serving.defaults]\nsteps = 20\n"
    )
    variant, base = variants.load(path), variants.load("rflow-ct")
    assert variants.load(str(path)) == variant
    assert (variant.name, variant.serving["defaults"]["steps"]) == ("ward-7", 20)
    assert variant.serving["defaults"]["size"] == base.serving["defaults"]["size"]
    assert variant.checkpoints["diffusion_unet"] == "/data/tuned.pt"
    assert variant.networks == base.networks
    assert set(base.hub) - set(variant.hub) == {"diffusion_unet"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('base = "rflow-ct"', r"own.toml: 'name' is missing; it has to differ from rflow-ct"),
        ('base = "big"\nname = "a"', r"own.toml: base 'big' is not one of .*rflow-ct"),
        ('base = "mini"\nname = "../a"', r"name '../a' may hold letters"),
        ('base = "mini"\nname = 7', r"own.toml: .* a table is missing or misplaced"),
        ('base = "mini"\nname = "a"\nserving = 7', r"own.toml: .* a table is missing or misplaced"),
        ('base = "mini"\nname = "a"\nsalt = 7', r"own.toml: .*salt.* missing or misplaced"),
        ("name = ", r"own.toml is not TOML: "),
    ],
)
def test_a_broken_file_of_ones_own_gets_one_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        variants.load(tmp_path / "own.toml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no.toml cannot be read: No such file"):
        variants.load(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("line", "instead", "sentence"),
    [
        ("multiple = 16", "multiple = 8", "size.multiple must be a multiple of 16"),
        ("176 = 22", "176 = 23", "labels must lie in 0..255"),
        ('modality = "mri_t1"', 'modality = "ct"', "'ct' is not one of its modalities"),
        ("[serving.latent]", "[serving.other]", "'latent' is missing"),
        ('name = "mini"', 'nome = "mini"', "nome"),
        ("max_voxels = 8388608", "max_voxels = 64", "size .* is outside `serving.size`"),
        ("max = [5.0, 5.0, 5.0]", "max = [1.0, 1.0, 1.0]", "spacing .* is outside"),
        ('solver = "euler"', 'solver = "rk4"', "'rk4' is not one of its solvers"),
        ("[networks.controlnet]", "[networks.control]", r"networks has \['control'\]"),
        ('controlnet = "mini/controlnet.safetensors"\n', "", "do not have the same roles"),
        ('embedding = "FP16"', 'embedding = "BF16"', r"tensors has \['BF16'\]"),
        ("waiting = [0, 8]", "waiting = [0, 0]", "limits.waiting is up to 0, but 1 or more"),
        ("waiting = [0, 8]", "waiting = [0, -1]", "limits.waiting is up to -1, but 1 or more"),
        ("waiting = [0, 8]", "waiting = [0, true]", "limits.waiting is up to True, but 1 or more"),
    ],
)
def test_a_contradiction_is_named(tmp_path: Path, line: str, instead: str, sentence: str) -> None:
    text = (VARIANTS / "mini.toml").read_text()
    assert line in text
    (tmp_path / "mini.toml").write_text(text.replace(line, instead))
    with pytest.raises(ValueError, match=sentence):
        variants.load("mini", tmp_path)


@pytest.mark.parametrize(
    ("line", "instead", "sentence"),
    [
        ("    0, 1, 3, 4,", "    0, 1, 3,", "mask_labels must be 125 ids"),
        ("    0, 1, 3, 4,", "    0, 1, 3, 250,", "mask_labels must be 125 ids"),
        ('top = "chest"', 'top = "neck"', "regions.top, bottom and labels must be in"),
        ('names = ["', 'names = ["head2", "', "each of regions.names needs its regions.labels"),
        ("23 = [28,", "23 = [250,", "and hold 0 and every id of `lesions`"),
        ('"maisi-124"', '"snomed"', "'snomed' is not one of vocabularies.toml"),
        ("mask_labels = [", "anatomy_sizes = [[1, 2]]\nmask_labels = [", "must have 10 sizes"),
    ],
)
def test_a_contradiction_of_ct_is_named(
    tmp_path: Path, line: str, instead: str, sentence: str
) -> None:
    text = (VARIANTS / "ddpm-ct.toml").read_text()
    assert line in text
    (tmp_path / "ddpm-ct.toml").write_text(text.replace(line, instead))
    with pytest.raises(ValueError, match=sentence):
        variants.load("ddpm-ct", tmp_path)


def test_a_caveat_of_a_preset_is_published_and_is_a_sentence(tmp_path: Path) -> None:
    presets = variants.load("mini").parameter({})["presets"]
    assert all("little variety" in preset["caveat"] for preset in presets.values())
    path = tmp_path / "own.toml"
    path.write_text('base = "mini"\nname = "own"\n[serving.presets.brain-t2]\ncaveat = "noisy"\n')
    assert variants.load(path).parameter({})["presets"]["brain-t2"]["caveat"] == "noisy"
    path.write_text('base = "mini"\nname = "own"\n[serving.presets.brain-t2]\ncaveat = true\n')
    with pytest.raises(ValueError, match=r"own\.toml: brain-t2: caveat True is not a sentence"):
        variants.load(path)
