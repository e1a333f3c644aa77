"""Contenders of the shipped model, from the command line to the JSON line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import compare

SMALL = """
base = "mini"
name = "small"
[networks.autoencoder]
num_channels = [8, 8, 8]
num_res_blocks = [1, 1, 1]
[networks.diffusion_unet]
num_channels = [16]
attention_levels = [true]
num_head_channels = [16]
[networks.controlnet]
num_channels = [16]
attention_levels = [true]
num_head_channels = [16]
conditioning_embedding_num_channels = [8, 8, 16]
"""

SMALL_WITHOUT_MASK = """
base = "rflow-mr-brain"
name = "small"
[networks.autoencoder]
num_channels = [32, 32, 32]
num_res_blocks = [1, 1, 1]
[networks.diffusion_unet]
num_channels = [32, 32]
attention_levels = [false, true]
num_head_channels = [0, 32]
num_res_blocks = 1
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = compare.main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.slow
def test_all_contenders_make_the_same_volume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--variant=mini", "--size=32", "--steps=2", "--repeat=1", "--device=cpu")
    contenders = ("--contenders=eager,engines,service", f"--work={tmp_path}")
    status, out, _ = run(capsys, *quick, *contenders)
    assert status == 0 and "| our service |" in out
    report = json.loads(out.splitlines()[-1])
    assert report["base"] == "eager" and not report["random_weights"]
    for name, result in report["contenders"].items():
        assert result["difference"]["share"] == 0, name
        assert result["memory_bytes"] > 100 << 20, name
        seconds = {stage: value["median"] for stage, value in result["seconds"].items()}
        assert seconds["sampler"] == pytest.approx(2 * seconds["step"], abs=1e-3)
        assert seconds["sampler"] + seconds["decoder"] <= seconds["total"] + 1e-3
        assert 0 < seconds["mask_encoder"] < seconds["total"]
        started = seconds["first_request"] - seconds["first_volume"]
        assert started == pytest.approx(0 if name == "service" else seconds["start"], abs=1e-3)


@pytest.mark.slow
def test_a_variant_without_a_controlnet_is_compared_without_a_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "small.toml"
    toml.write_text(SMALL_WITHOUT_MASK)
    words = (f"--variant={toml}", "--size=32", "--steps=2", "--repeat=1", "--device=cpu")
    contenders = ("--contenders=eager,engines,service", f"--work={tmp_path}")
    status, out, _ = run(capsys, *words, *contenders)
    assert status == 0 and "without a mask, 2 steps, guidance scale 2" in out
    for name, result in json.loads(out.splitlines()[-1])["contenders"].items():
        assert result["difference"]["share"] == 0, name
        assert "mask_encoder" not in result["seconds"], name


@pytest.mark.slow
def test_weights_and_models_that_are_missing_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "small.toml"
    toml.write_text(SMALL)
    words = (f"--variant={toml}", "--size=32", "--steps=2", "--repeat=1", "--device=cpu")
    status, out, _ = run(capsys, *words, "--contenders=engines", f"--work={tmp_path / 'work'}")
    report = json.loads(out.splitlines()[-1])
    assert status == 0 and report["variant"] == "small" and report["random_weights"]
    assert (tmp_path / "work" / "small" / "models-onnx" / "small" / "1" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "bench: upstream: pass the folder of a checkout"),
        (["--contenders=eager,tensorflow"], "bench: contenders: 'tensorflow' is not one of"),
        (["--contenders=eager", "--repeat=0"], "bench: repeat: 0 is not"),
        (["--contenders=eager", "--variant=ddpm-ct"], "bench: variant: ddpm-ct cannot be compared"),
        (["--contenders=eager", "--variant=none"], "bench: variant: 'none' is not one of"),
        (["--contenders=eager", "--size=48"], "bench: size: 48 is not a multiple of 32"),
        (["--contenders=eager", "--size=1024"], "bench: size: 1024 x 1024 x 1024 voxels is"),
        (["--contenders=eager", "--steps=0"], "bench: steps: 0 is"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "--device=cpu", f"--work={tmp_path}", *words)
    assert status == 1 and not out
    assert err.startswith(sentence) and len(err.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_bfloat16_is_not_compared_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "_device", lambda name: "cuda")
    status, _, err = run(capsys, "--contenders=service-bfloat16", f"--work={tmp_path}")
    assert status == 1
    assert err == "bench: contenders: service-bfloat16 needs --device cpu, not cuda\n"
