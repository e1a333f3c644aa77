"""The names of the layouts, and the path of an image's report in each layout."""

from __future__ import annotations

from pathlib import Path

LAYOUTS = ("plain", "nnunet", "msd", "bids")
# Patterns for the paths of all reports of a dataset.
REPORTS = "reports/*.json"
BIDS_REPORTS = "sub-*/ses-*/anat/sub-*.json"
BIDS_LABELS = Path("derivatives", "labels")  # it has the same subfolders as the images


def channel_end(number: int) -> str:
    """Return the end of an image's name in nnU-Net, with the number of the channel."""
    return f"_{number:04}"


def report_files(image: Path, name: str) -> list[Path]:
    """Return the possible paths of the report of an image called `name`, the most likely first.

    `Volume.save` and BIDS put the report beside the image. In the other layouts, whose images are
    in `images` or `imagesTr`, it is `reports/NAME.json`. If a case has several channels, NAME
    includes the channel.
    """
    image = image.absolute()
    beside = image.with_name(f"{name}.json")
    if image.parent.name not in ("images", "imagesTr"):
        return [beside]
    rows = [name]
    only = channel_end(0)
    if name.endswith(only):
        rows.append(name.removesuffix(only))
        # In nnU-Net's layout the row `a_0000` would have the image `a_0000_0000.nii.gz`.
        if image.with_name(image.name.replace(name, name + only, 1)).exists():
            rows.reverse()
    return [beside, *(image.parent.parent / "reports" / f"{row}.json" for row in rows)]
