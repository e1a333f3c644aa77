"""Painting in a real browser: what is drawn is what the new mask holds, and what a volume shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.client.studio.browser import Browser, labels, loaded, nifti
from tests.client.studio.chromium import Page

LESION = 150  # white matter hyperintensity
AFFINE = np.array([[-2.0, 0, 0, 31], [0, -2, 0, 31], [0, 0, 2, -31], [0, 0, 0, 1]])  # LPS


def voxels(browser: Browser, id_: str) -> NDArray[Any]:
    return np.asarray(loaded(browser.get(f"/api/pictures/{id_}.nii.gz")).dataobj)


def kept(page: Page) -> str:
    """Keep what is painted, and return the new mask's id."""
    known = page.pictures("mask")
    page.tab.click("#keep")
    page.until("document.querySelectorAll('#gallery [data-kind=mask]').length", len(known).__lt__)
    page.until("document.querySelector('#keep')?.disabled")
    page.seen()
    (made,) = set(page.pictures("mask")) - set(known)
    return made


def test_sphere_polygon_fill_undo(page: Page, browser: Browser) -> None:
    original = np.full((32, 32, 32), 22, np.uint8)
    original[:, :, :4] = 0
    original[4:8, 4:8, 8:12] = 131
    page.open("mask", "plain.nii.gz", nifti(original, AFFINE))
    page.tab.keyboard.press("2")  # axial
    page.tab.keyboard.press("p")
    page.tab.click(f"#lesion-{LESION}")

    page.click(0.5, 0.4)  # a sphere
    page.until("!document.querySelector('#undo').disabled")
    x, y, z = (int(i) for i in page.text("#at-voxel").removeprefix("voxel ").split(", "))
    first = voxels(browser, kept(page))
    drawn = np.argwhere(first == LESION)
    distances = np.linalg.norm(2.0 * (drawn - (x, y, z)), axis=1)
    assert len(drawn) > 60 and distances.max() < 8  # 6 mm, from a place inside the voxel
    assert set(np.unique(first[first != original])) == {LESION}

    # The same by the keyboard; the strokes are protected until they are kept.
    leaving = "!dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert not page.tab.evaluate(leaving)
    shown = page.tab.get_attribute("#gallery [data-role=first]", "data-id")
    page.tab.focus(".pane canvas")
    for _ in range(4):
        page.tab.keyboard.press("ArrowLeft")
    page.tab.keyboard.press(" ")
    page.until("!document.querySelector('#undo').disabled")
    assert page.tab.evaluate(leaving)
    page.tab.click("#tab-ask")
    page.tab.fill("#steps", "1")
    page.until("!document.querySelector('#generate').disabled")
    page.tab.click("#generate")
    page.until("document.querySelector('#message').textContent", lambda text: "not kept" in text)
    assert page.tab.get_attribute("#gallery [data-role=first]", "data-id") == shown
    page.tab.click("#tab-paint")
    page.until("!document.querySelector('#undo').disabled")
    again = voxels(browser, kept(page))
    added = np.argwhere(again != first)
    assert len(added) > 20 and (added[:, 0].max() < x or added[:, 0].min() > x)
    assert not page.tab.evaluate(leaving)
    first = again

    page.tab.click("#tool-polygon")
    for across, down in ((0.3, 0.6), (0.3, 0.8), (0.5, 0.8), (0.5, 0.6)):
        page.click(across, down)
    page.tab.keyboard.press("Enter")
    page.until("!document.querySelector('#undo').disabled")
    second = voxels(browser, kept(page))
    across, along, through = (np.unique(part) for part in np.nonzero(second != first))
    assert len(through) == 1 and len(across) * len(along) == (second != first).sum() > 20

    page.tab.click("#tool-fill")
    page.click(0.52, 0.1)  # no label but that of the whole
    page.until("!document.querySelector('#undo').disabled")
    page.tab.keyboard.press("Control+z")
    page.until("document.querySelector('#undo').disabled")
    page.click(0.52, 0.1)
    page.until("!document.querySelector('#undo').disabled")
    third = voxels(browser, kept(page))
    assert np.array_equal(third, np.where(second == 22, LESION, second))


def test_a_lesion_is_put_into_a_volume(page: Page, browser: Browser) -> None:
    mask = browser.uploaded("mask", ("brain.nii.gz", nifti(labels(), AFFINE)))
    arguments = {"modality": "mri_flair", "steps": 12, "seed": 3}
    job = browser.finished("volume", mask=mask["id"], arguments=arguments)
    before = job["picture"]
    page.until("document.querySelectorAll('#gallery [data-kind=volume]').length")
    page.show(before)
    page.tab.keyboard.press("2")
    # Three clicks: what, where, into the volume.
    page.tab.keyboard.press("p")
    page.tab.click(f"#lesion-{LESION}")
    page.click(0.4, 0.5)
    page.tab.click("#insert")
    page.until("document.querySelector('#message').textContent", lambda text: "is done" in text)
    page.seen()
    made = page.tab.get_attribute("#gallery [data-role=first]", "data-id")
    volume = next(one for one in browser.get("/api/pictures") if one["id"] == made)
    assert volume["source"] == before and volume["request"]["modality"] == "mri_flair"
    assert page.tab.get_attribute("#gallery [data-role=second]", "data-id") == before
    drawn = (voxels(browser, volume["mask"]) == LESION) & (labels() != LESION)
    assert drawn.sum() > 60
    old, new = (voxels(browser, id_).astype(float) for id_ in (before, made))
    change = new - old
    assert change[drawn].mean() > 3 * np.abs(change[~drawn]).mean() > 0
