"""The page under the hands of a person: what is typed, where the focus is, what is dropped."""

from __future__ import annotations

from pathlib import Path

from tests.client.studio.browser import Browser, labels, nifti, series
from tests.client.studio.chromium import Page

FOCUSED = "document.activeElement.id"


def test_the_form_asks_for_what_it_shows(page: Page) -> None:
    page.open("mask", "brain.nii.gz", nifti(labels()))
    possible = "!document.querySelector('#generate').disabled"
    page.tab.click("#more")
    for field, right, wrong, sentence in (
        ("#steps", "3", "5000", "Steps: a whole number from 1 to 1000."),
        ("#seed", "7", "-5", "Seed: a whole number from 0 to 4294967295."),
        ("#seed", "8", "", "Seed: a whole number from 0 to 4294967295."),
        ("#redraws", "1", "6", "Redraws: a whole number from 0 to 5."),
    ):
        page.tab.fill(field, right)
        page.until(possible)
        page.tab.fill(field, wrong)
        assert not page.tab.evaluate(possible)  # at once, and after the advice
        page.until("document.querySelector('#advice').textContent", lambda text: "above" in text)
        assert not page.tab.evaluate(possible)
        assert page.tab.get_attribute(field, "aria-invalid") == "true"
        said = page.tab.get_attribute(field, "aria-describedby")
        assert page.text(f"#{said}") == sentence
        page.tab.fill(field, right)
        page.until(possible)
    page.tab.select_option("#many", "steps")
    page.tab.fill("#values", "5, many")
    assert not page.tab.evaluate(possible)
    page.tab.fill("#values", "5, 10")
    page.until("document.querySelector('#generate').textContent", "Generate 2".__eq__)
    page.until(possible)


def test_a_picture_that_arrives_leaves_the_focus(page: Page, browser: Browser) -> None:
    page.open("mask", "brain.nii.gz", nifti(labels()))
    page.tab.select_option("#many", "modalities")
    known = len(browser.get("/api/pictures"))

    def arrives() -> dict[str, str]:
        nonlocal known
        known += 1
        picture = browser.uploaded("mask", ("other.nii.gz", nifti(labels())))
        page.until("document.querySelectorAll('#gallery li').length", known.__eq__)
        page.frame()
        return {"id": str(picture["id"])}

    for control in ("seed-again", "more", "many-mri_t2"):
        page.tab.focus(f"#{control}")
        arrives()
        assert page.tab.evaluate(FOCUSED) == control
    page.tab.fill("#steps", "5000")
    arrives()
    assert page.tab.input_value("#steps") == "5000" and page.tab.evaluate(FOCUSED) == "steps"
    page.tab.click("#tab-paint")
    page.until("!!document.querySelector('#leave-background')")
    page.tab.focus("#leave-background")
    arrives()
    assert page.tab.evaluate(FOCUSED) == "leave-background"
    # Removed by the keyboard, its neighbour has the focus.
    removed = arrives()["id"]
    page.tab.focus(f"#gallery [data-id='{removed}'] .actions button:last-child")
    page.tab.keyboard.press("Enter")
    page.until("document.querySelectorAll('#gallery li').length", (known - 1).__eq__)
    assert page.tab.evaluate("document.activeElement.closest('#gallery li')?.dataset.id")


def test_a_folder_is_dropped_on_an_open_picture(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "Head CT"
    folder.mkdir()
    for name, content in series(tmp_path).items():
        if name != "mask.dcm":
            (folder / name).write_bytes(content)
    page.open("mask", "brain.nii.gz", nifti(labels()))
    box = page.tab.locator(".pane canvas").first.bounding_box()
    devtools = page.tab.context.new_cdp_session(page.tab)
    for event in ("dragEnter", "dragOver", "drop"):
        devtools.send(
            "Input.dispatchDragEvent",
            {
                "type": event,
                "x": box["x"] + 0.75 * box["width"],
                "y": box["y"] + box["height"] / 2,
                "data": {"items": [], "files": [str(folder)], "dragOperationsMask": 1},
            },
        )
        page.frame()
        if event == "dragOver":
            assert page.tab.is_visible("#drop")
    page.until("document.querySelector('#message').textContent", "Head CT is open.".__eq__)
    assert page.text("#gallery [data-role=first] strong") == "Head CT"


def test_each_pane_is_opened_once(page: Page, browser: Browser) -> None:
    # The viewer is slow to arrive, and pictures come meanwhile.
    page.tab.route(
        "**/static/niivue.js", lambda route: (page.tab.wait_for_timeout(500), route.continue_())
    )
    page.tab.reload()
    for _ in range(4):
        browser.uploaded("mask", ("one.nii.gz", nifti(labels())))
    page.seen()
    assert page.tab.locator(".pane").count() == 1
