"""The client against the real server: space, progress, refusals, cancelling."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Progress, Volume
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from tests.client.server_metrics import cancelled_requests

QUICK: dict[str, Any] = {"steps": 2, "seed": 11}


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    with Client(server.grpc, timeout=240) as client:
        yield client


def head(shape: tuple[int, int, int] = (32, 36, 40), mm: float = 2.0) -> nib.Nifti1Image:
    """Return an asymmetric head, which every flip or exchange of axes changes, RAS+."""
    data = np.zeros(shape, np.uint8)
    x, y, z = shape
    data[3:-3, 4:-6, 5:-2] = 22
    data[x // 2 : -5, 6 : y // 2, 8 : z // 3] = 227
    return nib.Nifti1Image(data, np.diag([mm, mm, mm, 1]))


def stored(image: nib.Nifti1Image, codes: str, degrees: float = 0) -> nib.Nifti1Image:
    """Return the same voxels in another order, with an affine tilted about x and translated."""
    reoriented = image.as_reoriented(
        ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    )
    turn = np.deg2rad(degrees)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    tilt[:3, 3] = (-12, 30.5, 4)
    return nib.Nifti1Image(np.asanyarray(reoriented.dataobj), tilt @ reoriented.affine)


@pytest.fixture(scope="module")
def upright(client: Client) -> Volume:
    return client.generate(head(), **QUICK)


@pytest.mark.parametrize(("codes", "degrees"), [("LAS", 0), ("PSR", 0), ("ILA", 15), ("RAS", 25)])
def test_a_mask_gets_its_volume_in_its_own_space(
    client: Client, upright: Volume, tmp_path: Path, codes: str, degrees: float
) -> None:
    nib.save(stored(head(), codes, degrees), tmp_path / "mask.nii.gz")
    client.generate(tmp_path / "mask.nii.gz", **QUICK).save(tmp_path / "out.nii.gz")
    mask, volume = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "out.nii.gz")
    assert volume.get_data_dtype() == np.int16
    assert volume.shape == mask.shape
    assert np.array_equal(volume.affine, mask.affine)
    # The same anatomy and seed: the same voxels, wherever the file keeps them.
    expected = stored(upright.image, codes, degrees)
    assert np.array_equal(np.asanyarray(volume.dataobj), np.asanyarray(expected.dataobj))
    outside = np.asanyarray(mask.dataobj) == 0
    assert np.asanyarray(volume.dataobj)[outside].max() == 0
    assert np.asanyarray(volume.dataobj)[~outside].mean() > 20


def test_the_volume_says_what_it_is(upright: Volume) -> None:
    assert upright.report["synthetic"] is True
    assert upright.report["seed"] == 11
    assert upright.report["steps"] == 2
    assert upright.report["size"] == [32, 36, 40]
    sentence = upright.image.header["descrip"].item().decode()
    assert sentence == "SYNTHETIC mini mri_t1 seed 11"


def test_another_spacing_and_back(client: Client) -> None:
    mask = stored(head((66, 72, 80), mm=1.0), "LPS", 10)
    volume = client.generate(mask, spacing=2, **QUICK)
    assert volume.report["spacing"] == [2, 2, 2]
    assert volume.report["size"] == [33, 36, 40]
    assert volume.image.shape == (66, 72, 80)
    assert np.array_equal(volume.image.affine, mask.affine)
    data, labels = np.asanyarray(volume.image.dataobj), np.asanyarray(mask.dataobj)
    assert data[labels == 0].max() == 0
    assert data[labels > 0].mean() > 20


def test_without_a_mask(client: Client) -> None:
    volume = client.generate(
        size=[32, 40, 48], spacing=[2, 1.5, 2], modality="mri_flair", solver="ab2", **QUICK
    )
    assert volume.image.shape == (32, 40, 48)
    assert volume.image.header.get_zooms() == (2, 1.5, 2)
    assert nib.aff2axcodes(volume.image.affine) == ("R", "A", "S")
    assert volume.report["modality"] == "mri_flair"
    assert volume.report["masked"] is False


def test_a_drawn_seed_is_reported_and_makes_the_volume_again(client: Client) -> None:
    first = client.generate(size=[32, 32, 32], steps=1)
    second = client.generate(size=[32, 32, 32], steps=1, seed=first.report["seed"])
    other = client.generate(size=[32, 32, 32], steps=1)
    pixels = [np.asanyarray(v.image.dataobj) for v in (first, second, other)]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


def test_progress_grows_and_ends_with_the_volume(client: Client) -> None:
    *steps, last = client.stream(head(), seed=1, steps=5)
    assert isinstance(last, Volume)
    assert all(isinstance(step, Progress) for step in steps)
    fractions = [step.fraction for step in steps if isinstance(step, Progress)]
    assert all(early <= late for early, late in pairwise(fractions))
    assert fractions[0] < 0.1 and fractions[-1] == 1
    stages = list(dict.fromkeys(step.stage for step in steps if isinstance(step, Progress)))
    assert [s for s in stages if s in ("condition", "sampler", "decoder")] == [
        "condition",
        "sampler",
        "decoder",
    ]
    assert sum(step.stage == "sampler" for step in steps if isinstance(step, Progress)) >= 5


def test_on_progress(client: Client) -> None:
    events: list[Progress] = []
    client.generate(size=[32, 32, 32], on_progress=events.append, **QUICK)
    assert events[-1].fraction == 1


def test_info(client: Client) -> None:
    mini = client.info()["mini"]
    assert mini.license == "Apache-2.0"
    assert mini.modalities["mri_t1"] == 9 and mini.modalities["mri_flair_skull_stripped"] == 31
    assert mini.labels[22] == "brain" and 0 in mini.labels
    assert mini.size["multiple"] > 0 and len(mini.size["max"]) == 3
    assert mini.limits["steps"][0] == 1
    assert {"euler", "heun", "ab2"} <= set(mini.solvers)
    assert mini.defaults["modality"] in mini.modalities
    assert all(preset["modality"] in mini.modalities for preset in mini.presets.values())
    assert all(len(digest) == 64 for digest in mini.weights.values())


def _with(label: int) -> nib.Nifti1Image:
    image = head()
    np.asanyarray(image.dataobj)[16, 16, 16] = label
    return image


@pytest.mark.parametrize(
    ("mask", "arguments", "sentence"),
    [
        (head(), {"modality": "mri_t9"}, "modality.*mri_t9.*mri_t1"),
        (head(), {"steps": 0}, "steps.*0.*1000"),
        (head(), {"steps": 10**6}, "steps.*1000000"),
        (head(), {"guidance": 99}, "guidance.*99"),
        (head(), {"guidance": float("nan")}, "guidance.*nan"),
        (head(), {"guidance_interval": [0.5, 2]}, "guidance_interval.*0.5 to 2"),
        (head(), {"guidance_interval": [0.5]}, r"guidance_interval is \[0.5\]; two numbers"),
        (head(), {"guidance_interval": 1}, "guidance_interval is 1; two numbers"),
        (head(), {"solver": "magic"}, "solver.*magic.*euler"),
        (head(), {"seed": -1}, "seed.*-1"),
        (head(), {"size": [32, 32, 32]}, "size.*mask"),
        (head(mm=9.0), {}, "spacing.*9"),
        (head((16, 32, 32)), {}, "mask.*16 x 32 x 32"),
        (_with(7), {}, "mask.* 7"),
        (nib.Nifti1Image(np.zeros((32, 32, 32), np.uint8), np.eye(4)), {}, "mask.* 0"),
        (None, {"size": [512, 512, 512]}, "size.*512"),
        (None, {"size": [32, 32]}, "size"),
        (None, {"variant": "maxi"}, "variant is 'maxi'.*mini"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(
    client: Client, mask: Any, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        client.generate(mask, **arguments)
    assert "\n" not in str(caught.value)
    assert "/" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_leaving_frees_the_sampler(
    client: Client, server: Any, eventually: Callable[..., None]
) -> None:
    before, fractions = cancelled_requests(server), []
    for event in client.stream(size=[96, 96, 96], steps=1000, seed=1):
        assert isinstance(event, Progress)
        fractions.append(event.fraction)
        if event.stage == "sampler" and len(fractions) > 6:
            break
    assert fractions[-1] < 0.1  # nearly all steps remain
    client.generate(size=[32, 32, 32], steps=1)
    eventually(lambda: cancelled_requests(server) >= before + 1)


def test_requests_that_end_early_leave_no_threads(
    client: Client, eventually: Callable[..., None]
) -> None:
    def leave(request: dict[str, Any]) -> None:
        with (
            contextlib.suppress(InvalidRequest),
            contextlib.closing(client.stream(**request)) as events,
        ):
            next(events)

    cancelled, refused = {"size": [32, 32, 32], **QUICK}, {"size": [32, 32, 32], "steps": 0}
    leave(cancelled)
    before = threading.active_count()
    for _ in range(10):
        leave(cancelled)
        leave(refused)
    eventually(lambda: threading.active_count() <= before + 2)
