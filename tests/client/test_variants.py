"""The choice of a variant; variants without masks or with body regions; by library and command."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, ServerUnavailable, aio, make_dataset
from maisi_client._transport.session import Session
from tritonclient.grpc import model_config_pb2 as model_config
from tritonclient.grpc import service_pb2 as pb

from tests.client.command import maisi
from tests.client.fake_server import fake_server, message, volume

SIZE = [32, 32, 64]
MASK = nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.eye(4))


@pytest.fixture(scope="module")
def client(official_server: Any) -> Any:
    with Client(official_server.grpc, timeout=240) as client:
        yield client


def test_a_variant_without_masks_makes_images(client: Client) -> None:
    result = client.generate(variant="tiny-brain", modality="mri_t2", size=SIZE, seed=1)
    assert result.image.shape == (32, 32, 64)
    assert result.report["modality"] == "mri_t2"
    assert result.report["masked"] is False


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"mask": MASK},
            "mask: tiny-brain does not have this input; it has source, strength, preset",
        ),
        ({"top_region": "head"}, "top_region: tiny-brain does not have"),
        ({"variant": "tiny-brian", "mask": MASK}, "the variant is 'tiny-brian'; .*tiny-brain"),
    ],
)
def test_what_a_variant_does_not_take_stays_here(
    client: Client, official_server: Any, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        client.generate(**{"variant": "tiny-brain", **arguments})


def test_regions_are_given_or_found_in_the_mask(client: Client) -> None:
    arguments: dict[str, Any] = {"variant": "tiny-ddpm", "seed": 1}
    with_regions = client.generate(size=SIZE, top_region="head", bottom_region="lower", **arguments)
    assert (with_regions.report["top_region"], with_regions.report["bottom_region"]) == (
        "head",
        "lower",
    )
    with_mask = client.generate(MASK, **arguments)
    assert (with_mask.report["top_region"], with_mask.report["bottom_region"]) == ("head", "head")
    with pytest.raises(InvalidRequest, match="top_region: 'foot' is not one of head"):
        client.generate(size=SIZE, top_region="foot", **arguments)


def test_info_tells_masks_and_regions(client: Client, official_server: Any) -> None:
    variants = client.info()
    assert variants["tiny-ddpm"].masks and not variants["tiny-brain"].masks
    assert variants["tiny-ddpm"].regions == ("head", "chest", "abdomen", "lower")
    assert variants["tiny-brain"].regions == ()
    output = maisi("info", "--url", official_server.grpc).stdout
    brain, ddpm = sorted(output.split("\n\n"))
    assert brain.startswith("tiny-brain") and "masks         none" in brain
    assert "labels" not in brain and "regions" not in brain and "anatomy" not in brain
    assert "regions       head, chest, abdomen, lower" in ddpm and "masks" not in ddpm
    assert "anatomy       gallbladder 0.5, liver 0.5, stomach 0.5, pancreas 0.5, colon 0.5" in ddpm
    assert "lung tumor absent" in ddpm
    assert variants["tiny-brain"].anatomy == {}
    assert variants["tiny-ddpm"].anatomy["bone lesion"] == {
        "default": -1,
        "label": 128,
        "tumour": True,
    }


def test_the_command_makes_them(official_server: Any, tmp_path: Path) -> None:
    size = ("--size", "32,32,64", "--seed", 1, "--url", official_server.grpc)
    brain = ("--variant", "tiny-brain", "--modality", "mri_t1", *size)
    result = maisi("generate", "-o", tmp_path / "t1.nii.gz", *brain)
    assert result.returncode == 0, result.stderr
    assert nib.load(tmp_path / "t1.nii.gz").shape == (32, 32, 64)
    ends = ("--variant", "tiny-ddpm", "--top-region", "head", "--bottom-region", "chest")
    result = maisi("generate", "-o", tmp_path / "ct.nii.gz", *ends, *size)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "ct.json").read_text())
    assert (report["top_region"], report["bottom_region"]) == ("head", "chest")
    nib.save(MASK, tmp_path / "mask.nii.gz")
    result = maisi("generate", tmp_path / "mask.nii.gz", "-o", tmp_path / "no.nii.gz", *brain)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "maisi: mask: tiny-brain does not have this input; it has source"
    )
    assert not (tmp_path / "no.nii.gz").exists()


def asynchronously(url: str, **arguments: Any) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with aio.Client(url) as client:
            return await client.check(**arguments)

    return asyncio.run(ask())


def synchronously(url: str, **arguments: Any) -> dict[str, Any]:
    with Client(url) as client:
        return client.check(**arguments)


@pytest.mark.parametrize("check", [synchronously, asynchronously])
def test_the_variant_is_the_argument_else_the_environments_else_the_only_one(
    server: Any, official_server: Any, monkeypatch: pytest.MonkeyPatch, check: Any
) -> None:
    monkeypatch.delenv("MAISI_VARIANT", raising=False)
    assert check(server.grpc)["variant"] == "mini"
    several = r"^no variant is named, and \S+ serves tiny-brain, tiny-ddpm; name one of them$"
    with pytest.raises(InvalidRequest, match=several):
        check(official_server.grpc)
    monkeypatch.setenv("MAISI_VARIANT", "tiny-brain")
    assert check(official_server.grpc)["variant"] == "tiny-brain"
    assert check(official_server.grpc, variant="tiny-ddpm")["variant"] == "tiny-ddpm"
    with pytest.raises(InvalidRequest, match=r"^the variant is 'tiny-brain'; \S+ serves mini$"):
        check(server.grpc)


def test_the_only_variant_is_asked_for_once_and_reported(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAISI_VARIANT", raising=False)
    lookups = []
    models = Session._models
    monkeypatch.setattr(
        Session, "_models", lambda *arguments: lookups.append(arguments) or models(*arguments)
    )
    with Client(server.grpc) as client:
        reports = [client.generate(size=[32, 32, 32], steps=1, seed=n).report for n in (1, 2)]
    assert len(lookups) == 1
    assert [report["request"]["variant"] for report in reports] == ["mini"] * 2


def test_a_server_without_variants_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAISI_VARIANT", raising=False)
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)
    ensemble = model_config.ModelConfig(name="other", platform="ensemble")
    with fake_server(configs=[ensemble]) as (url, _):
        for check in (synchronously, asynchronously):
            with pytest.raises(ServerUnavailable, match=f"^no variant is ready at {url}$"):
                check(url)


def test_an_only_variant_that_is_gone_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAISI_VARIANT", raising=False)
    models_served = ["old", "old.stream"]

    def answer(request: Any, context: Any) -> Any:
        if request.model_name not in models_served:
            error = f"Request for unknown model: '{request.model_name}' is not found"
            yield pb.ModelStreamInferResponse(error_message=error)
            return
        yield volume(request)
        yield message(final=True)

    monkeypatch.setattr("tests.client.fake_server.MINI", models_served)
    with fake_server(answer) as (url, requests), Client(url) as client:
        client.generate(size=[3, 4, 5])
        models_served[:] = ["new", "new.stream"]
        with pytest.raises(InvalidRequest, match=f"^the variant is 'old'; {url} serves new$"):
            client.generate(size=[3, 4, 5])
        client.generate(size=[3, 4, 5])
    assert [r.model_name for r in requests] == ["old.stream", "old.stream", "new.stream"]


def test_rows_without_a_variant_have_the_only_one(
    server: Any, official_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MAISI_VARIANT", raising=False)
    nib.save(MASK, tmp_path / "mask.nii.gz")
    rows = [Row("a", {"mask": tmp_path / "mask.nii.gz", "steps": 1, "seed": 1})]
    rows.append(Row("b", {**rows[0].arguments, "variant": "mini"}))
    with Client(server.grpc) as client:
        list(make_dataset(rows, tmp_path / "set", client, layout="msd"))
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["modality"] == {"0": "MRI"}
    with (
        Client(official_server.grpc) as client,
        pytest.raises(InvalidRequest, match=r"^no variant is named, and the server serves tiny-"),
    ):
        list(make_dataset(rows[:1], tmp_path / "other", client, layout="msd"))
