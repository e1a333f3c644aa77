"""The layouts of datasets, and the path of an image's report in each."""

from __future__ import annotations

from pathlib import Path

LAYOUTS = ("plain", "nnunet", "msd", "bids")
CHANNEL = "_0000"  # nnU-Net appends to an image's name the number of its channel


def report_files(image: Path, name: str) -> list[Path]:
    """Return the possible paths of the report of an image called `name`, the likeliest first.

    These are beside the image, as `Volume.save` and BIDS have it, and `reports/NAME.json` of a
    dataset in one of the other layouts, whose images are in `images` or `imagesTr`.
    """
    image = image.absolute()
    beside = image.with_name(f"{name}.json")
    if image.parent.name not in ("images", "imagesTr"):
        return [beside]
    rows = [name]
    if name.endswith(CHANNEL):
        rows.append(name.removesuffix(CHANNEL))
        # In nnU-Net's layout the row `a_0000` would have the image `a_0000_0000.nii.gz`.
        if image.with_name(image.name.replace(name, name + CHANNEL, 1)).exists():
            rows.reverse()
    return [beside, *(image.parent.parent / "reports" / f"{row}.json" for row in rows)]
