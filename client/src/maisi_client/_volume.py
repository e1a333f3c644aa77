"""The results of a request: progress and a volume."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from ._atomic import atomic, naming
from ._datasets.report_files import report_files
from ._errors import InvalidRequest, ServerError
from ._grid import open_image
from ._outputs import identities, refuse_input
from ._slices_png import middle_slices, png
from ._validation import check_form, read_json_file

SUFFIXES = (".nii.gz", ".nii")
_FORM = {  # of the parts of a report that are read
    "sha256?": {"used_mask?": str},
    "fidelity?": {"faithful?": (bool, type(None))},
    "versions?": {str: str},
}


@dataclass(frozen=True)
class Progress:
    """The stage that a request is in, and the fraction of the request that is done, 0 to 1."""

    stage: str
    fraction: float


@dataclass(frozen=True)
class Volume:
    """A synthetic volume.

    `image` is int16 (Hounsfield units for CT, 0..1000 for MR) with the grid, axes and
    affine of the mask. `report` has its parameters: seed, arguments, seconds of each stage,
    weights, quality. `mask` is the label mask that the volume follows, uint8, on this grid; None
    if there is none or it equals the mask of the request. It differs if the server generated or
    changed it, or if labels were lost at another spacing.
    """

    image: nib.Nifti1Image
    report: Mapping[str, Any]
    mask: nib.Nifti1Image | None = None

    @property
    def faithful(self) -> bool:
        """False if, by the report, the volume does not follow its mask."""
        return self.report.get("fidelity", {}).get("faithful") is not False

    def _repr_png_(self) -> bytes | None:
        """Return the three middle slices for a notebook, None if the image is not 3-D."""
        return png(middle_slices(self.image)) if len(self.image.shape) == 3 else None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `NAME.nii.gz` (or `.nii`), its report `NAME.json`, and `NAME_mask.nii.gz` if any.

        Each file is written whole or not at all; an existing one is replaced. Return the path of
        the report. Raises `InvalidRequest` for another suffix, and if a file would replace the mask
        or source that the volume was made from; `OSError` if the folder cannot be written.
        """
        path, report = Path(path), report_path(path)
        self._refuse_inputs(path)
        text = json.dumps(dict(self.report), indent=2) + "\n"
        # All files are written before the first one is replaced; the report is replaced last.
        with atomic(report) as report_draft, atomic(path) as image_draft, ExitStack() as stack:
            if self.mask is not None:
                mask_draft = stack.enter_context(atomic(mask_path(path)))
                with naming(mask_path(path)):
                    nib.save(self.mask, mask_draft)
            with naming(path):
                nib.save(self.image, image_draft)
            with naming(report):
                report_draft.write_text(text, encoding="utf-8")
        return report

    def _refuse_inputs(self, path: Path) -> None:
        """Raise `InvalidRequest` if saving would replace an input of the volume."""
        request = self.report.get("request")
        request = request if isinstance(request, Mapping) else {}
        inputs = identities((f"the {name}", request.get(name)) for name in ("mask", "source"))
        refuse_input(inputs, "the volume's file", path)
        refuse_input(inputs, "the report's file", report_path(path))
        if self.mask is not None:
            refuse_input(inputs, "the mask's file", mask_path(path))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, report: str | os.PathLike[str] | None = None
    ) -> Volume:
        """Read a volume, its report, and the mask that `save` wrote if the report has one.

        `report` is the report's path; by default that of `save`, beside the volume, or of
        `make_dataset`, in any layout.
        Raises `InvalidRequest` if the volume or the report cannot be read.
        """
        if report is None:
            beside = report_path(path)
            candidates = report_files(Path(path), beside.stem)
            report = next((file for file in candidates if file.is_file()), beside)
        _, image = open_image(path, "volume", InvalidRequest)
        try:
            contents = read_json_file(report)
            check_form("it", contents, _FORM)
        except FileNotFoundError:
            raise InvalidRequest(
                f"report '{report}' of the volume does not exist; give the path of the report"
            ) from None
        except (OSError, ValueError, ServerError) as error:
            raise InvalidRequest(f"report '{report}' cannot be read: {error}") from error
        mask = mask_path(path)
        # A mask without a digest in the report is of an earlier volume of the same name.
        has_mask = mask.is_file() and "used_mask" in contents.get("sha256", {"used_mask": ""})
        mask_image = open_image(mask, "mask", InvalidRequest)[1] if has_mask else None
        return cls(image, contents, mask_image)


def mask_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a volume's mask: `scan.nii.gz` has `scan_mask.nii.gz`."""
    report = report_path(path)
    return report.with_name(report.name.removesuffix(".json") + "_mask.nii.gz")


def stem(path: str | os.PathLike[str]) -> str:
    """Return the name of a file without its folder and without `.nii` or `.nii.gz`."""
    return Path(path).name.removesuffix(".gz").removesuffix(".nii")


def report_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a volume's report: `scan.nii.gz` has `scan.json`."""
    path = Path(path)
    for suffix in SUFFIXES:
        if path.name.endswith(suffix) and path.name != suffix:
            return path.with_name(path.name.removesuffix(suffix) + ".json")
    raise InvalidRequest(f"the output is '{path}'; its name must end in .nii.gz or .nii")
