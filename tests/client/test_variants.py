"""Which variant is meant; variants that take no mask, or body regions; by library and command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, ServerUnavailable, aio, make_dataset
from maisi_client._transport.session import Session
from tritonclient.grpc import model_config_pb2 as model_config
from tritonclient.grpc import service_pb2 as pb

from tests.client.fake_server import message, playing, volume

SIZE = [32, 32, 64]
MASK = nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.eye(4))


@pytest.fixture(scope="module")
def client(official_server: Any) -> Any:
    with Client(official_server.grpc, timeout=240) as client:
        yield client


def maisi(*args: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maisi_client", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_variant_without_masks_makes_images(client: Client) -> None:
    made = client.generate(variant="tiny-brain", modality="mri_t2", size=SIZE, seed=1)
    assert made.image.shape == (32, 32, 64)
    assert made.report["modality"] == "mri_t2"
    assert made.report["masked"] is False


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mask": MASK}, "mask: tiny-brain takes none; what it takes is source, strength, preset"),
        ({"top_region": "head"}, "top_region: tiny-brain takes none"),
        ({"variant": "tiny-brian", "mask": MASK}, "the variant is 'tiny-brian'; .*tiny-brain"),
    ],
)
def test_what_a_variant_does_not_take_stays_here(
    client: Client, official_server: Any, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        client.generate(**{"variant": "tiny-brain", **asked})


def test_regions_are_given_or_found_in_the_mask(client: Client) -> None:
    asked: dict[str, Any] = {"variant": "tiny-ddpm", "seed": 1}
    given = client.generate(size=SIZE, top_region="head", bottom_region="lower", **asked)
    assert (given.report["top_region"], given.report["bottom_region"]) == ("head", "lower")
    found = client.generate(MASK, **asked)
    assert (found.report["top_region"], found.report["bottom_region"]) == ("head", "head")
    with pytest.raises(InvalidRequest, match="top_region: 'foot' is not one of head"):
        client.generate(size=SIZE, top_region="foot", **asked)


def test_info_tells_masks_and_regions(client: Client, official_server: Any) -> None:
    variants = client.info()
    assert variants["tiny-ddpm"].masks and not variants["tiny-brain"].masks
    assert variants["tiny-ddpm"].regions == ("head", "chest", "abdomen", "lower")
    assert variants["tiny-brain"].regions == ()
    said = maisi("info", "--url", official_server.grpc).stdout
    brain, ddpm = sorted(said.split("\n\n"))
    assert brain.startswith("tiny-brain") and "masks         none" in brain
    assert "labels" not in brain and "regions" not in brain
    assert "regions       head, chest, abdomen, lower" in ddpm and "masks" not in ddpm


def test_the_command_makes_them(official_server: Any, tmp_path: Path) -> None:
    size = ("--size", "32,32,64", "--seed", 1, "--url", official_server.grpc)
    brain = ("--variant", "tiny-brain", "--modality", "mri_t1", *size)
    done = maisi("generate", "-o", tmp_path / "t1.nii.gz", *brain)
    assert done.returncode == 0, done.stderr
    assert nib.load(tmp_path / "t1.nii.gz").shape == (32, 32, 64)
    ends = ("--variant", "tiny-ddpm", "--top-region", "head", "--bottom-region", "chest")
    done = maisi("generate", "-o", tmp_path / "ct.nii.gz", *ends, *size)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "ct.json").read_text())
    assert (report["top_region"], report["bottom_region"]) == ("head", "chest")
    nib.save(MASK, tmp_path / "mask.nii.gz")
    done = maisi("generate", tmp_path / "mask.nii.gz", "-o", tmp_path / "no.nii.gz", *brain)
    assert done.returncode == 1
    assert done.stderr.startswith("maisi: mask: tiny-brain takes none; what it takes is source")
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
    monkeypatch.setattr(Session, "_models", lambda *asked: lookups.append(asked) or models(*asked))
    with Client(server.grpc) as client:
        reports = [client.generate(size=[32, 32, 32], steps=1, seed=n).report for n in (1, 2)]
    assert len(lookups) == 1
    assert [report["request"]["variant"] for report in reports] == ["mini"] * 2


def test_a_server_without_variants_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAISI_VARIANT", raising=False)
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)
    ensemble = model_config.ModelConfig(name="other", platform="ensemble")
    with playing(configs=[ensemble]) as (url, _):
        for check in (synchronously, asynchronously):
            with pytest.raises(ServerUnavailable, match=f"^no variant is ready at {url}$"):
                check(url)


def test_an_only_variant_that_is_gone_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAISI_VARIANT", raising=False)
    served = ["old", "old.stream"]

    def answer(request: Any, context: Any) -> Any:
        if request.model_name not in served:
            error = f"Request for unknown model: '{request.model_name}' is not found"
            yield pb.ModelStreamInferResponse(error_message=error)
            return
        yield volume(request)
        yield message(final=True)

    monkeypatch.setattr("tests.client.fake_server.MINI", served)
    with playing(answer) as (url, requests), Client(url) as client:
        client.generate(size=[3, 4, 5])
        served[:] = ["new", "new.stream"]
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
