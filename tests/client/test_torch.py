"""Pairs for training: equal to volumes of `generate`, in order, and shared by workers and ranks."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from maisi_client import Client, InvalidRequest, Row, ServerUnavailable, read_plan
from maisi_client.torch import SyntheticPairs
from monai.data import DataLoader as MonaiLoader
from monai.data import MetaTensor
from monai.transforms import Compose, Lambda, RandFlipd, RandSpatialCropd
from torch.utils.data import DataLoader

from tests.client.command import NOBODY
from tests.client.server_metrics import cancelled_requests
from tests.conftest import PATIENCE, Server

MODALITIES = ("mri_t1", "mri_t2", "mri_flair")


def mask() -> nib.Nifti1Image:
    """Return a cube of labels, not oblique, in another axis order than RAS+."""
    grid = np.zeros((32, 40, 36), np.uint8)
    grid[8:24, 8:30, 8:24] = 22
    grid[10:14, 12:14, 9:20] = 227
    affine = np.array([[0, -2, 0, 7], [0, 0, 2, 8], [2, 0, 0, 9], [0, 0, 0, 1]])
    return nib.Nifti1Image(grid, affine)


ROWS = [Row(f"row-{m}", {"mask": mask(), "modality": m, "steps": 1}) for m in MODALITIES]


@pytest.fixture
def plan(tmp_path: Path) -> list[Row]:
    nib.save(mask(), tmp_path / "mask.nii.gz")
    lines = [f"{m},mask.nii.gz,{m},1,{n % 2}" for n, m in enumerate(MODALITIES)]
    (tmp_path / "plan.csv").write_text("\n".join(["name,mask,modality,steps,augment", *lines]))
    return read_plan(tmp_path / "plan.csv")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["name"] == other["name"] and torch.equal(one["image"], other["image"])


def test_pairs_are_what_generate_makes_of_the_rows(server: Server, plan: list[Row]) -> None:
    pairs = list(SyntheticPairs(plan, server.grpc, prefetch=2))
    assert [pair["name"] for pair in pairs] == list(MODALITIES)
    assert {pair["group"] for pair in pairs} == {"mask"}
    with Client(server.grpc) as client:
        volumes = [client.generate(**row.arguments) for row in plan]
    for number, (pair, volume) in enumerate(zip(pairs, volumes, strict=True)):
        assert (pair["image"].dtype, pair["label"].dtype) == (torch.float32, torch.uint8)
        assert pair["image"].shape == pair["label"].shape == (1, 32, 40, 36)
        assert (pair["image"][0].numpy() == volume.image.get_fdata()).all()
        label_map = volume.mask or nib.load(plan[number].arguments["mask"])
        assert (volume.mask is not None) == (number == 1)  # the one that is augmented
        assert (pair["label"][0].numpy() == np.asarray(label_map.dataobj)).all()
        assert (pair["affine"].numpy() == volume.image.affine).all()
        assert (pair["seed"], pair["modality"]) == (number, MODALITIES[number])
        assert pair["faithful"] == (volume.report["fidelity"]["faithful"] is not False)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_share_the_rows(server: Server, method: str, workers: int) -> None:
    with Client(server.grpc) as client:
        client.info()  # a connection is open while the workers start
        loader = DataLoader(
            SyntheticPairs(ROWS, server.grpc),
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=method,
        )
        loaded = list(loader)
    alone = list(SyntheticPairs(ROWS, server.grpc))
    assert len(loaded) == len(alone) == 3
    assert all(map(same, loaded, alone))


def test_epochs_draw_other_seeds_always_the_same(server: Server) -> None:
    def seeds(epoch: int, count: int) -> list[int]:
        endless = SyntheticPairs(ROWS[:2], server.grpc, endless=True, epoch=epoch, prefetch=1)
        return [pair["seed"] for pair in itertools.islice(endless, count)]

    all_seeds = seeds(0, 5)
    assert all_seeds[:2] == [0, 1] and len(set(all_seeds)) == 5
    assert seeds(1, 2) == all_seeds[2:4]


def test_rows_of_a_function(server: Server) -> None:
    def rows(epoch: int) -> Iterator[dict[str, Any]]:
        yield {**ROWS[epoch % 3].arguments, "seed": 7}
        yield ROWS[0].arguments

    pairs = itertools.islice(SyntheticPairs(rows, server.grpc, endless=True, prefetch=1), 4)
    summary = [(pair["name"], pair["modality"], pair["seed"]) for pair in pairs]
    assert [modality for _, modality, _ in summary] == [
        "mri_t1",
        "mri_t1",
        "mri_t2",
        "mri_t1",
    ]
    assert summary[0][0] == "case_0000" and summary[0][2] == summary[2][2] == 7
    assert len({seed for _, _, seed in summary}) == 3


def test_rows_of_one_anatomy_have_one_group(tmp_path: Path) -> None:
    def groups(rows: Any) -> list[str]:
        return [row.group for row in SyntheticPairs(rows, NOBODY)._share()]

    image = mask()
    other = nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine)
    nib.save(other, tmp_path / "one.nii.gz")
    nib.save(other, tmp_path / "copy.nii")
    masks = [image, tmp_path / "one.nii.gz", image, tmp_path / "copy.nii", mask()]
    rows: list[Any] = [{"mask": one} for one in masks]
    assert groups(rows) == ["case_0000", "one", "case_0000", "one", "case_0000"]
    assert groups([Row("a", rows[0], group="person"), rows[2]]) == ["person", "person"]
    # The server makes one anatomy of one seed. The second row has its number as seed.
    assert len(set(groups([{"anatomy": {}, "seed": 1}, {"anatomy": {}}, {"anatomy": {}}]))) == 2
    assert groups(lambda epoch: [Row("a", rows[0], group="person"), rows[0]]) == [
        "person",
        "case_0001",
    ]


def test_monai_transforms_and_loader(server: Server) -> None:
    keys = ["image", "label"]
    meta = Lambda(lambda d: d | {k: MetaTensor(d[k], affine=d["affine"]) for k in keys})
    crop = RandSpatialCropd(keys, [16, 16, 16], random_size=False)
    transform = Compose([meta, RandFlipd(keys, prob=1.0, spatial_axis=0), crop])
    pairs = SyntheticPairs(ROWS[:2], server.grpc, transform=transform)
    (batch,) = MonaiLoader(pairs, batch_size=2)
    assert batch["image"].shape == (2, 1, 16, 16, 16)
    assert batch["label"].dtype == torch.uint8
    difference = batch["image"].affine - torch.from_numpy(mask().affine)
    assert difference.abs().sum() > 0  # MONAI followed what was flipped and cropped


def test_leaving_early_cancels_what_runs(server: Server, eventually: Callable[..., None]) -> None:
    before = cancelled_requests(server)
    rows = [ROWS[0], *({"mask": mask(), "steps": 1000} for _ in range(3))]
    pairs = iter(SyntheticPairs(rows, server.grpc, prefetch=3))
    next(pairs)
    pairs.close()  # type: ignore[attr-defined]
    eventually(lambda: cancelled_requests(server) > before)
    with Client(server.grpc) as client:  # no steps are in the way
        client.generate(size=[32, 32, 32], steps=1)


def test_no_more_is_asked_for_than_is_to_be_ahead(server: Server) -> None:
    taken_rows = []

    def rows(epoch: int) -> Iterator[Row]:
        for row in ROWS:
            taken_rows.append(row)
            yield row

    pairs = iter(SyntheticPairs(rows, server.grpc, endless=True, prefetch=2))
    next(pairs)
    assert len(taken_rows) == 2
    next(pairs)
    assert len(taken_rows) == 3
    pairs.close()  # type: ignore[attr-defined]


def test_a_row_goes_to_another_server_if_one_is_gone(server: Server) -> None:
    pairs = SyntheticPairs(ROWS[:1], f"{NOBODY},{server.grpc}", attempts=2)
    assert [pair["name"] for pair in pairs] == ["row-mri_t1"]


def test_what_fails_everywhere_is_raised_with_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)
    with pytest.raises(ServerUnavailable, match=r"row 'row-mri_t1': no server answers"):
        list(SyntheticPairs(ROWS, NOBODY, attempts=1))


def test_an_error_keeps_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **arguments: Any) -> None:
        raise ServerUnavailable("full", "out_of_memory", 10)

    monkeypatch.setattr(Client, "generate", failing)
    with pytest.raises(ServerUnavailable) as caught:
        list(SyntheticPairs(ROWS, NOBODY, attempts=1))
    assert (caught.value.kind, caught.value.retry_after) == ("out_of_memory", 10)


def test_what_is_refused_is_raised_at_once(server: Server) -> None:
    pairs = SyntheticPairs([{"mask": mask(), "modality": "mri_t9"}], f"{server.grpc},{NOBODY}")
    with pytest.raises(InvalidRequest, match="row 'case_0000': modality: 'mri_t9'"):
        list(pairs)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rows": []}, "epoch 0 has no row"),
        ({"rows": [{"size": [32, 32, 32]}]}, "row 'case_0000': a pair needs a mask or an anatomy"),
        ({"rows": ROWS, "prefetch": 0}, "prefetch is 0"),
        ({"rows": ROWS, "url": "a:1,"}, "the url is 'a:1,'"),
    ],
)
def test_what_needs_no_server_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        list(SyntheticPairs(**{"url": NOBODY, **arguments}))


def share_of_rank(rank: int, store: Path) -> list[int]:
    """Return the seeds of one of two ranks."""
    group = {"init_method": f"file://{store}", "rank": rank, "world_size": 2}
    torch.distributed.init_process_group("gloo", **group)
    pairs = SyntheticPairs([{"mask": "mask.nii"}] * 5)
    torch.distributed.destroy_process_group()
    return [row.arguments["seed"] for row in pairs._share()]


def test_ranks_share_the_rows(tmp_path: Path) -> None:
    # Not by fork: this process has threads of gRPC, whose locks a child could inherit.
    with torch.multiprocessing.get_context("spawn").Pool(2) as pool:
        ranks = [pool.apply_async(share_of_rank, (n, tmp_path / "store")) for n in (0, 1)]
        assert [rank.get(PATIENCE) for rank in ranks] == [[0, 2, 4], [1, 3]]


def test_without_torch_the_extra_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; import maisi_client.torch"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        "InvalidRequest" in result.stderr and "pip install 'maisi-client[torch]'" in result.stderr
    )
