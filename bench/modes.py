"""Measure the modes of generation with the trained variant mini, and draw pictures of them.

`scripts/bench modes [--write]` serves mini and makes volumes from two held-out masks of heads. It
measures

- how the fidelity in the report differs between volumes that follow a mask and others,
- what image to image keeps and changes, and
- whether a lesion drawn into a mask appears there and nowhere else.

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from maisi_client import Client, Volume, preview
from scipy import ndimage

from backends.maisi.fidelity import FAITHFUL, borders
from bench import ROOT, charts, page
from bench.launcher import Server
from bench.workload import Array
from training.fidelity import lesion_contrast, tissue_dice

PAGE = ROOT / "docs" / "how-to" / "generation.md"
SECTION = "Measurements of mini"
MASKS = [ROOT / "tests" / "training" / f"held_out_{seed}.nii.gz" for seed in (100000, 100001)]
MODALITIES = ("mri_t1", "mri_t2", "mri_flair", "mri_swi")
STRENGTHS = (0.4, 0.6, 0.8, 0.9)
LESION = 150


@dataclass(frozen=True)
class Head:
    """A mask of a head, uint8 `[X, Y, Z]`, without (`labels`) and with a lesion (`ill`)."""

    image: nib.Nifti1Image
    labels: npt.NDArray[np.uint8]
    ill: npt.NDArray[np.uint8]

    def picture(self, labels: Array) -> nib.Nifti1Image:
        """Return labels as an image on the same grid."""
        return nib.Nifti1Image(labels, self.image.affine)


def head(path: Path) -> Head:
    """Return the head of a mask file.

    The lesions of the file become white matter. The lesion of `ill` is in the deepest white matter.
    """
    image = nib.load(path)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    labels[np.isin(labels, (LESION, 176))] = 228
    ill = with_lesion(labels, slice(None))
    return Head(nib.Nifti1Image(labels, image.affine), labels, ill)


def with_lesion(labels: Array, planes: slice) -> npt.NDArray[np.uint8]:
    """Return `labels` with a lesion in the right white matter, whose centre is in `planes`.

    The lesion is a ball with a radius of 5 voxels.
    """
    white = labels == 227
    deep = ndimage.distance_transform_edt(white)
    deep[..., [z not in range(*planes.indices(white.shape[2])) for z in range(white.shape[2])]] = 0
    centre = np.unravel_index(int(deep.argmax()), deep.shape)
    away = np.linalg.norm(np.indices(labels.shape).T - np.array(centre), axis=-1).T
    ill: npt.NDArray[np.uint8] = np.where((away <= 5) & white, np.uint8(LESION), labels)
    return ill


def levels(volume: Volume) -> Array:
    """Return the grey levels of a volume, int16 `[X, Y, Z]`."""
    image: Array = np.asarray(volume.image.dataobj).astype(np.int16)
    return image


def fidelity(client: Client, heads: Sequence[Head]) -> list[dict[str, Any]]:
    """Return ratios of border contrasts by modality, with a volume's own mask and with others."""
    rows = []
    for modality in MODALITIES:
        own_ratios, other_ratios, unmasked_ratios = [], [], []
        for number, subject in enumerate(heads):
            volume = client.generate(subject.image, modality=modality, seed=number)
            unmasked = client.generate(modality=modality, seed=number, size=subject.labels.shape)
            own_ratios.append(volume.report["fidelity"]["borders"]["ratio"])
            for labels in (heads[1 - number].labels, subject.labels[:, ::-1]):
                other_ratios.append(_ratio(levels(volume), labels))
            unmasked_ratios.append(_ratio(levels(unmasked), subject.labels))
        rows.append(
            {
                "modality": modality,
                "own": own_ratios,
                "other": other_ratios,
                "without": unmasked_ratios,
            }
        )
    return rows


def _ratio(image: Array, mask: Array) -> float:
    contrast = borders(image, mask)
    return float("nan") if contrast is None else contrast["ratio"]


def translation(client: Client, heads: Sequence[Head]) -> list[dict[str, Any]]:
    """Return what a T1 volume keeps when it is translated to T2, with and without its mask.

    There is a row for each strength. `edges` is the correlation of the gradient magnitudes of the
    volume and its source. `as_t1` and `as_t2` are the mean Dice of tissues, which are segmented by
    the order of their grey levels in that contrast.
    """
    rows = []
    sources = [client.generate(subject.image, modality="mri_t1", seed=5) for subject in heads]
    for masked in (True, False):
        for strength in STRENGTHS:
            measures: dict[str, list[float]] = {"edges": [], "as_t1": [], "as_t2": []}
            for subject, source in zip(heads, sources, strict=True):
                image = levels(
                    client.generate(
                        subject.image if masked else None,
                        source=source.image,
                        strength=strength,
                        modality="mri_t2",
                        seed=6,
                    )
                )
                measures["edges"].append(_edges_in_common(levels(source), image, subject.labels))
                for name in ("t1", "t2"):
                    measures[f"as_{name}"].append(_dice(image, subject.labels, f"mri_{name}"))
            means = {name: float(np.mean(values)) for name, values in measures.items()}
            rows.append({"masked": masked, "strength": strength, **means})
    return rows


def _dice(image: Array, labels: Array, modality: str) -> float:
    return float(np.mean(list(tissue_dice(image, labels, modality).values())))


def _edges_in_common(first: Array, second: Array, labels: Array) -> float:
    """Return the correlation of the gradient magnitudes of two volumes within the head."""
    inside = labels > 0
    steep = [
        ndimage.gaussian_gradient_magnitude(image.astype(np.float32), 1)[inside]
        for image in (first, second)
    ]
    return float(np.corrcoef(steep)[0, 1])


def insertion(client: Client, heads: Sequence[Head]) -> list[dict[str, Any]]:
    """Return the effect of a lesion drawn into the mask of a FLAIR volume, by strength.

    All values are grey levels. `lesion` is the mean of the lesion minus the mean of its mirror
    image. `elsewhere` is the mean difference from the same request without lesion, more than 3
    voxels away from the lesion. `noise` is the mean difference, at the same voxels, between two
    seeds without lesion.
    """
    rows = []
    sources = [client.generate(subject.image, modality="mri_flair", seed=5) for subject in heads]
    for strength in STRENGTHS:
        lesion, elsewhere, noise = [], [], []
        for subject, source in zip(heads, sources, strict=True):

            def make(
                mask: Array, seed: int, subject: Head = subject, source: Volume = source
            ) -> Array:
                return levels(
                    client.generate(
                        subject.picture(mask),
                        source=source.image,
                        strength=strength,  # noqa: B023
                        modality="mri_flair",
                        seed=seed,
                    )
                )

            labels = subject.labels
            healthy, ill, other_seed = make(labels, 1), make(subject.ill, 1), make(labels, 2)
            near = ndimage.binary_dilation(subject.ill != labels, iterations=3)
            away = (labels > 0) & ~near
            lesion.append(lesion_contrast(ill, subject.ill))
            elsewhere.append(np.abs(ill - healthy)[away].mean())
            noise.append(np.abs(other_seed - healthy)[away].mean())
        measures = {"lesion": lesion, "elsewhere": elsewhere, "noise": noise}
        means = {name: float(np.mean(values)) for name, values in measures.items()}
        rows.append({"strength": strength, **means})
    return rows


def pictures(client: Client, subject: Head, folder: Path) -> None:
    """Write a picture for each mode of generation to `folder`."""
    make: Callable[..., Volume] = client.generate
    t1, flair = (make(subject.image, modality=f"mri_{name}", seed=5) for name in ("t1", "flair"))
    t1_of_seeds = [
        (f"T1, seed {seed}", make(preset="brain-t1", seed=seed)) for seed in (1, 2, 3, 4, 5, 6)
    ]
    preview(None, t1_of_seeds, folder / "image-only.png", tile=150)
    of_modalities = [
        (name.upper(), make(preset=f"brain-{name}", seed=1))
        for name in ("t1", "t2", "flair", "swi")
    ]
    preview(None, of_modalities, folder / "image-only-modalities.png", tile=200)
    sizes = {"ventricles": 0.6, "white matter hyperintensities": 0.5, "tumor": 0.6}
    of_sizes = [
        (name, make(anatomy=sizes, modality=f"mri_{name}", seed=1)) for name in ("t1", "flair")
    ]
    preview(of_sizes[0][1].mask, of_sizes, folder / "anatomy.png", tile=200)
    heads = [
        (f"T1, seed {seed}", make(anatomy={"head": 0.5}, modality="mri_t1", seed=seed))
        for seed in (1, 2, 3, 4)
    ]
    preview(None, heads, folder / "anatomies.png", tile=200)
    t2 = [
        (
            f"T2, strength {s:g}",
            make(subject.image, source=t1.image, strength=s, modality="mri_t2", seed=6),
        )
        for s in (0.6, 0.8, 0.9)
    ]
    preview(None, [("T1, the source", t1), *t2], folder / "image-to-image.png", tile=200)
    # The picture shows an axial plane near the middle of the brain, so the lesion is drawn there.
    brain = np.flatnonzero(np.isin(subject.labels, (22, 131, *range(213, 241))).any((0, 1)))
    middle = int(brain[0] + brain[-1]) // 2
    mask = subject.picture(with_lesion(subject.labels, slice(middle - 1, middle + 2)))
    ill = make(mask, source=flair.image, strength=0.6, modality="mri_flair", seed=1)
    both = [("FLAIR, the source", flair), ("with the lesion", ill)]
    preview(mask, both, folder / "lesion.png", tile=200)


def text(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the section of the page."""

    def span(values: Sequence[float]) -> str:
        return f"{min(values):.2f} to {max(values):.2f}"

    rows = results["fidelity"]
    least = min(value for row in rows for value in row["own"])
    most = max(value for row in rows for key in ("other", "without") for value in row[key])
    return "\n\n".join(
        [
            "Ratio of the contrast at the borders of a mask to the contrast at its displaced "
            "borders. *Own mask*: volumes measured with the mask that they were made from. *Other "
            "mask*: the same volumes measured with the mask of a second head, and with their own "
            "mask flipped from front to back. *No mask*: volumes made without a mask, measured "
            f"with the mask of a head. The smallest ratio with the own mask is {least:.2f}, the "
            f"largest of the others is {most:.2f}. A report calls a volume faithful if the ratio "
            f"is {FAITHFUL} or more.",
            page.table(
                ["modality", "own mask", "other mask", "no mask"],
                [[r["modality"], *(span(r[k]) for k in ("own", "other", "without"))] for r in rows],
            ),
            "Image to image from T1 to T2. *Edges*: correlation of the gradient magnitudes of the "
            "volume and its source. *As T1* and *as T2*: mean Dice of fluid, grey matter and white "
            "matter, segmented by the order of their grey levels in that contrast.",
            page.table(
                ["mask", "strength", "edges", "as T1", "as T2"],
                [
                    [
                        "own" if r["masked"] else "none",
                        r["strength"],
                        *(f"{r[k]:.2f}" for k in ("edges", "as_t1", "as_t2")),
                    ]
                    for r in results["translation"]
                ],
            ),
            "Image to image of a FLAIR volume with a lesion drawn into its mask. *Lesion*: mean "
            "grey level of the lesion minus the mean grey level of its mirror image in the other "
            "hemisphere. *Elsewhere*: mean absolute difference from the volume made without the "
            "lesion, more than 3 voxels away from the lesion. *Noise*: mean absolute difference "
            "between two seeds without the lesion, at the same voxels.",
            page.table(
                ["strength", "lesion", "elsewhere", "noise"],
                [
                    [r["strength"], *(f"{r[k]:.1f}" for k in ("lesion", "elsewhere", "noise"))]
                    for r in results["insertion"]
                ],
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench modes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="write generation.md and its pictures")
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    heads = [head(path) for path in MASKS]
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(ROOT / "model_repository", Path(folder, "log"), "--models=mini") as server,
        Client(server.grpc) as client,
    ):
        results = {
            "fidelity": fidelity(client, heads),
            "translation": translation(client, heads),
            "insertion": insertion(client, heads),
        }
        if options.write:
            pictures(client, heads[0], ROOT / "docs" / "images")
    section = text(results)
    numbers = {"benchmark": "modes", "machine": page.machine(), **results}
    if options.write:
        picture = charts.write("modes", numbers)
        command = shlex.join(["scripts/bench", "modes", *words])
        page.write(SECTION, command, f"{picture}\n\n{section}", PAGE)
    print(section, json.dumps(numbers), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
