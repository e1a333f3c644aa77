"""The page in a real browser: what is seen is what the files hold; volumes are made and shown."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.affines import oblique
from tests.client.studio.browser import Browser, labels, loaded, nifti
from tests.client.studio.chromium import Page
from tests.conftest import PATIENCE

SHAPE = (40, 32, 24)
# A label for each of the eight corners of the body: right or left, anterior or posterior, ...
CORNERS = dict(
    zip(itertools.product("RL", "AP", "SI"), (214, 215, 220, 221, 222, 229, 230, 239), strict=True)
)
COLOURS = {214: "#56c8f2", 220: "#e8a948", 222: "#35b59c", 230: "#f5d547"}  # superior


def affine(axes: str) -> Any:
    """Return an affine of voxels of 2, 1.5 and 3 mm, with SHAPE about the origin."""
    matrix = oblique(axes[:3], (2, 1.5, 3), 20 if axes.endswith("oblique") else 0)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return matrix


def places(matrix: Any) -> Any:
    """Return the place of each voxel, mm in RAS+, as `[3, X, Y, Z]`."""
    return (
        np.einsum("ij,jxyz->ixyz", matrix[:3, :3], np.indices(SHAPE))
        + matrix[:3, 3, None, None, None]
    )


def under_the_cursor(page: Page) -> tuple[list[int], str]:
    """Return the voxel that the page names, and its mm."""
    voxel = page.text("#at-voxel").removeprefix("voxel ")
    return [int(index) for index in voxel.split(", ")], page.text("#at-mm")


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "LAS oblique"])
def test_what_is_under_the_cursor(page: Page, axes: str) -> None:
    matrix = affine(axes)
    mm = places(matrix)
    letters = [np.where(mm[i] > 0, *pair) for i, pair in enumerate(("RL", "AP", "SI"))]
    corners = np.vectorize(lambda *corner: CORNERS[corner])(*letters).astype(np.uint8)
    volume = np.random.default_rng(1).integers(-1000, 1000, SHAPE).astype(np.int16)
    page.open("mask", "corners.nii.gz", nifti(corners, matrix))
    page.tab.click("#planes [data-value=axial]")
    for _ in range(2):  # above the middle
        page.tab.keyboard.press("PageUp")
    page.frame()
    # Right is on the left, anterior is above, as the letters say.
    assert page.tab.locator(".letters text").all_text_contents() == [*"RLAP"]
    for across, down, corner in ((0.42, 0.42, "RAS"), (0.58, 0.42, "LAS"), (0.42, 0.58, "RPS")):
        x, y = page.move(across, down)
        label = CORNERS[(corner[0], corner[1], corner[2])]
        voxel, _ = under_the_cursor(page)
        assert page.tab.get_attribute("#at-label", "data-id") == str(label)
        assert corners[tuple(voxel)] == label
        colour = np.array(list(bytes.fromhex(COLOURS[label][1:])))
        assert np.abs(page.pixels()[y, x].astype(int) - colour).max() < 12, (corner, x, y)
    page.open("volume", "noise.nii.gz", nifti(volume, matrix))
    for across, down in ((0.4, 0.45), (0.55, 0.4), (0.5, 0.6)):
        page.move(across, down)
        voxel, said = under_the_cursor(page)
        assert page.text("#at-value") == str(volume[tuple(voxel)])
        words = said.removesuffix(" mm").split()
        signs = {"R": 1, "L": -1, "A": 1, "P": -1, "S": 1, "I": -1}
        place = [signs[a] * float(b) for a, b in zip(words[::2], words[1::2], strict=True)]
        nearest = np.argmin(((mm - np.array(place)[:, None, None, None]) ** 2).sum(0))
        assert np.abs(np.array(voxel) - np.unravel_index(nearest, SHAPE)).max() <= 1
        distance = np.linalg.inv(matrix) @ [*place, 1]
        assert np.abs(distance[:3] - voxel).max() < 0.55  # mm are rounded to 0.1


def test_a_volume_is_made(page: Page, browser: Browser, tmp_path: Path) -> None:
    page.open("mask", "brain.nii.gz", nifti(labels()))
    before = page.pixels()
    page.tab.fill("#steps", "5")
    page.until("document.querySelector('#advice').textContent", lambda text: "voxels of" in text)
    assert "field of view" in page.text("#advice").lower()  # a warning, before it is paid for
    page.tab.evaluate(
        "window.said = []; new MutationObserver(() => {"
        " const text = document.querySelector('#jobs .progress')?.textContent;"
        " if (text && text !== said.at(-1)) said.push(text) })"
        ".observe(document.querySelector('#jobs'), { subtree: true, childList: true })"
    )
    known = page.pictures("volume")
    page.tab.click("#generate")
    page.until("document.querySelector('#message').textContent", lambda text: "is done" in text)
    page.seen()
    (made,) = set(page.pictures("volume")) - set(known)
    said = page.tab.evaluate("said")
    steps = [text.partition("step ")[2][:6] for text in said if "step " in text]
    assert steps == sorted(steps) and steps[0] == "1 of 5" and steps[-1] == "5 of 5", said
    assert page.tab.evaluate("document.querySelector('#requests').hidden")
    # The shown volume covers the mask: grey in place of colours.
    after = page.pixels()
    assert np.ptp(before, axis=2).mean() > 1.5 * np.ptp(after, axis=2).mean() > 0
    assert sum(page.tab.evaluate("shifts")) < 0.02

    page.tab.click("#tab-take")
    with page.tab.expect_download() as download:
        page.tab.click("text=NIfTI >> visible=true")
    content = browser.get(f"/api/pictures/{made}.nii.gz")
    assert download.value.path().read_bytes() == content
    assert loaded(content).shape == (32, 32, 32)
    page.tab.click("text=Copy as command")
    command = page.until("document.querySelector('.copies textarea').value")
    (mask,) = (one for one in browser.get("/api/pictures") if one["title"] == "brain.nii.gz")
    browser.download(mask, tmp_path)
    words = [sys.executable, "-m", "maisi_client", *shlex.split(command)[1:]]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=PATIENCE)
    assert (tmp_path / words[words.index("-o") + 1]).read_bytes() == content


def test_modalities_are_compared_in_a_grid(page: Page, browser: Browser) -> None:
    page.open("mask", "grid.nii.gz", nifti(labels()))
    page.tab.fill("#steps", "1")
    page.tab.select_option("#many", "modalities")
    known = page.pictures("volume")
    page.tab.click("#generate")
    page.until("document.querySelectorAll('#grid canvas').length", (4).__eq__)
    made = [one for one in browser.get("/api/pictures") if one["id"] in page.pictures("volume")]
    requests = [one["request"] for one in made if one["id"] not in known]
    assert len({request["seed"] for request in requests}) == 1
    titles = page.tab.locator("#grid .pane-title").all_text_contents()
    assert [title.partition(",")[0] for title in titles] == [
        *("mri_t1", "mri_t2", "mri_flair", "mri_swi")
    ]
    page.tab.locator("#grid .cell").nth(2).click()
    page.seen()
    assert page.text("#gallery [data-role=first] strong").startswith("mri_flair")
    # Side by side, then one minus the other.
    other = next(one["id"] for one in made if one["title"].startswith("mri_t1"))
    page.tab.hover(f"#gallery [data-id='{other}']")
    page.tab.click(f"#gallery [data-id='{other}'] .versus")
    page.until("document.querySelectorAll('.pane').length", (2).__eq__)
    page.seen()
    page.tab.keyboard.press("d")
    page.until("document.querySelector('.pane-title').textContent", lambda text: "minus" in text)
    page.seen()
    page.move(0.4, 0.4)
    first, second = (
        np.asarray(loaded(browser.get(f"/api/pictures/{id_}.nii.gz")).dataobj)
        for id_ in (page.tab.get_attribute("#gallery [data-role=first]", "data-id"), other)
    )
    voxel = tuple(under_the_cursor(page)[0])
    assert page.text("#at-value") == f"difference {int(first[voxel]) - int(second[voxel])}"
    # Black and White are those of the difference.
    black, white = (float(page.tab.input_value(field)) for field in ("#black", "#white"))
    assert black == -white
    before = page.pixels()
    page.tab.fill("#white", str(white / 4))
    page.tab.keyboard.press("Enter")
    page.until("document.activeElement.id", "white".__eq__)
    page.frame()
    assert np.abs(page.pixels().astype(int) - before).max() > 40
    page.tab.click("#layouts [data-value=one]")
    page.until("Number(document.querySelector('#black').value)", black.__ne__)
