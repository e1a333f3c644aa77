"""The layouts of datasets, and the path of an image's report in each."""

from __future__ import annotations

from pathlib import Path

LAYOUTS = ("plain", "nnunet", "msd", "bids")
BIDS_LABELS = Path("derivatives", "labels")  # with the folders of the images below it


def channel_end(number: int) -> str:
    """Return what nnU-Net appends to an image's name, the number of its channel."""
    return f"_{number:04}"


def report_files(image: Path, name: str) -> list[Path]:
    """Return the possible paths of the report of an image called `name`, the likeliest first.

    These are beside the image, as `Volume.save` and BIDS have it, and `reports/NAME.json` of a
    dataset in one of the other layouts, whose images are in `images` or `imagesTr`. Where a case
    has several channels, NAME is that of the image, channel included.
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
