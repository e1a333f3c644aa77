"""Check the inputs of a request, and complete them to a `Plan`."""

from __future__ import annotations

import dataclasses
import hmac
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..engines import guard
from . import anatomy, grid
from .envelope import BODY
from .errors import InvalidRequest
from .grid import Lengths, Sides
from .inputs import (
    Array,
    Inputs,
    Variant,
    by,
    flag,
    interval,
    join,
    number,
    quote,
    read_text,
    text,
    whole,
)

INT64_MAX = 2**63 - 1
_STRENGTH = 0.8
_SIGNATURE = 64  # hexadecimal digits of an HMAC-SHA256
_MOST_REDRAWS = 5


@dataclass(frozen=True)
class Plan:
    """All parameters of a volume except the arrays; the report also has them.

    `size` and `padded_size` are in voxels, `spacing` in mm. Regions are None if the variant has
    none. `guidance_interval` is in time, 1 at noise and 0 at the image. `vocabulary` is that of the
    request's mask; a body is added to the mask if `body_added`, and it is augmented if `augmented`.
    `anatomy` has the sizes of a mask to generate, and `organs` the ids that the returned mask
    keeps. If `sourced`, sampling starts from an image with noise of `strength`; 1 is noise alone.
    `redraws` is the number of further attempts for a volume that is not faithful. `started` is the
    machine's monotonic clock at the start, and `condition_seconds` the time of the first stage.
    """

    variant: str
    modality: str
    class_label: int
    size: Sides
    padded_size: Sides
    spacing: Lengths
    seed: int
    steps: int
    guidance: float
    solver: str
    masked: bool
    top_region: str | None = None
    bottom_region: str | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    preset: str | None = None
    vocabulary: str | None = None
    body_added: bool = False
    augmented: bool = False
    anatomy: tuple[float, ...] | None = None
    organs: tuple[int, ...] | None = None
    sourced: bool = False
    strength: float = 1.0
    redraws: int = 0
    started: float = 0.0
    condition_seconds: float = 0.0

    @property
    def rows(self) -> int:
        """The rows of conditioning: one, or with guidance two, conditional and unconditional."""
        return 2 if self.guidance > 0 else 1

    def guides(self, time: float) -> bool:
        """Return whether guidance is applied at `time`, 0 at the image and 1 at noise.

        The source is Kynkäänniemi et al., https://arxiv.org/abs/2404.07724, whose interval is in
        sigma.
        """
        low, high = self.guidance_interval
        return low <= time <= high

    def latent_shape(self, variant: Variant) -> tuple[int, ...]:
        """Return the shape [1, C, x, y, z] of the latent."""
        factor = variant["latent"]["factor"]
        return (1, variant["latent"]["channels"], *(side // factor for side in self.padded_size))


def complete(variant: Variant, inputs: Inputs) -> Plan:
    """Return the plan of `inputs`, the request's tensors, with defaults for the absent ones.

    Raises InvalidRequest with one sentence: the input, its value and the allowed values. Shapes are
    checked before voxels are read.
    """
    defaults, limits = variant["defaults"], variant["limits"]
    mask, sourced = inputs.get("mask"), "source" in inputs
    preset, preset_values = grid.preset(variant, inputs)
    size = grid.size(variant, inputs, preset_values["size"])
    modality = _modality(variant, inputs, preset_values["modality"])
    sizes = anatomy.parse(variant, inputs)
    if sizes is not None and (volumes := [name for name in ("mask", "source") if name in inputs]):
        raise InvalidRequest(f"anatomy: cannot be combined with a {volumes[0]}, which has its own")
    solver = text(inputs, "solver") if "solver" in inputs else defaults["solver"]
    if solver not in variant["solvers"]:
        raise InvalidRequest(f"solver: {quote(solver)} is not one of {join(variant['solvers'])}")
    if "strength" in inputs and not sourced:
        raise InvalidRequest("strength: needs a source, the volume to start from")
    if flag(inputs, "augment") and mask is None:
        raise InvalidRequest("augment: needs a mask to change")
    redraws = whole(inputs, "redraws", 0, 0, _MOST_REDRAWS)
    if "redraws" in inputs and "latent" in inputs:
        raise InvalidRequest("redraws: cannot be combined with a latent, which fixes the noise")
    masked = mask is not None or sizes is not None
    if redraws and not masked:
        raise InvalidRequest("redraws: needs a mask or an anatomy, which the volume has to follow")
    organs = anatomy.parse_organs(variant, inputs)
    if organs is not None and not masked:
        raise InvalidRequest("organs: needs a mask or an anatomy, whose labels it selects")
    ends = [name for name in ("top_region", "bottom_region") if name in inputs]
    if sizes is not None and "regions" in variant and len(ends) == 1:
        # The other region comes from the mask, which may not fit and does not exist yet.
        raise InvalidRequest(f"{ends[0]}: an anatomy takes both regions or neither")
    ids = [] if mask is None else label_ids(variant, mask)
    top, bottom = regions(variant, inputs, ids, preset_values.get("regions", ()))
    plan = Plan(
        variant=variant["name"],
        modality=modality,
        class_label=variant["modalities"][modality],
        size=size,
        padded_size=grid.padded_size(variant, size),
        spacing=grid.spacing(variant, inputs, preset_values["spacing"]),
        seed=whole(inputs, "seed", secrets.randbelow(2**31), 0, INT64_MAX),
        steps=whole(inputs, "steps", defaults["steps"], *limits["steps"]),
        guidance=number(inputs, "guidance", defaults["guidance"], *limits["guidance"]),
        solver=solver,
        masked=masked,
        top_region=top,
        bottom_region=bottom,
        guidance_interval=interval(inputs, "guidance_interval"),
        preset=preset,
        vocabulary=text(inputs, "vocabulary") if "vocabulary" in inputs else None,
        body_added=bool(ids) and str(BODY) in variant["labels"] and BODY not in ids,
        augmented=flag(inputs, "augment"),
        anatomy=sizes,
        organs=organs,
        sourced=sourced,
        strength=number(inputs, "strength", _STRENGTH if sourced else 1, 0, 1),
        redraws=redraws,
    )
    if "latent" in inputs:
        check_latent(variant, plan, "latent", inputs["latent"])
    return plan


def signed(plan: Plan, **changes: float) -> str:
    """Return the plan, with changed fields, in the form for `parse_plan`: its HMAC and its JSON."""
    text = json.dumps(dataclasses.asdict(plan) | changes)
    return guard.sign(text) + text


def parse_plan(variant: Variant, data: Array) -> Plan:
    """Return the plan in `data`, uint8 [N], which the variant's condition model has signed.

    Raises InvalidRequest for any other data.
    """
    text = read_text("plan", data, 10_000)
    signature, text = text[:_SIGNATURE], text[_SIGNATURE:]
    authentic = hmac.compare_digest(signature.encode(), guard.sign(text).encode())
    fields = json.loads(text) if authentic else {}
    if fields.get("variant") != variant["name"]:
        raise InvalidRequest(f"plan: not what {variant['name']}.condition of this server writes")
    for name in ("size", "padded_size", "spacing", "guidance_interval", "anatomy", "organs"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return Plan(**fields)


def takes_mask(variant: Variant) -> bool:
    """Return whether the variant has a ControlNet, which masks require."""
    return "labels" in condition_names(variant)


def condition_names(variant: Variant) -> tuple[str, ...]:
    """Return the names of the conditions, which have a row each, and with guidance two."""
    return tuple(variant.get("conditions", ("labels", "class_labels", "spacing_mm100")))


def check_latent(variant: Variant, plan: Plan, name: str, latent: Array) -> None:
    """Raise InvalidRequest for a latent of another shape than the plan's, or not finite."""
    shape = plan.latent_shape(variant)
    if latent.shape != shape:
        raise InvalidRequest(
            f"{name}: shape {list(latent.shape)} does not fit a volume of {by(plan.size)} voxels, "
            f"which takes {list(shape)}"
        )
    if not np.isfinite(latent).all():
        raise InvalidRequest(f"{name}: holds NaN or infinite values, only finite ones are allowed")


def check_labels(plan: Plan, ids: Array) -> None:
    """Raise InvalidRequest for label ids [R, X, Y, Z] of another shape than the plan's."""
    shape = (plan.rows, *plan.padded_size)
    if ids.shape != shape:
        raise InvalidRequest(
            f"labels: shape {list(ids.shape)} does not fit the plan, which takes {list(shape)}"
        )


def _modality(variant: Variant, inputs: Inputs, default: str) -> str:
    codes: Mapping[str, int] = variant["modalities"]
    if "modality" not in inputs:
        return default
    requested = text(inputs, "modality")
    for name, code in codes.items():
        if requested in (name, str(code)):
            return name
    allowed = join(f"{name} ({code})" for name, code in codes.items())
    raise InvalidRequest(f"modality: {quote(requested)} is not one of {allowed}")


def label_ids(variant: Variant, mask: Array) -> list[int]:
    """Return the ids in `mask`; raises InvalidRequest for an unknown id or an empty mask."""
    present = np.zeros(256, dtype=bool)
    for plane in mask:  # one plane at a time, because an index uses eight bytes per voxel
        present[plane] = True
    ids: list[int] = np.flatnonzero(present).tolist()
    unknown = [label for label in ids if str(label) not in variant["labels"]]
    if unknown:
        allowed = join(sorted(int(label) for label in variant["labels"]))
        raise InvalidRequest(
            f"mask: holds {join(unknown)}, and the labels of {variant['name']} are {allowed};"
            " `maisi info` lists their names"
        )
    if ids == [0]:
        raise InvalidRequest("mask: every voxel is 0, and at least one must be a label")
    return ids


def regions(
    variant: Variant, inputs: Inputs, ids: Collection[int], preset_regions: Sequence[str]
) -> tuple[str | None, str | None]:
    """Return the body regions of the volume's top and bottom; None for both without regions.

    They are the regions of the inputs, else the first and the last region with a label in `ids`,
    else those of the preset, else the variant's defaults. The method is that of
    get_body_region_index_from_mask in scripts/utils.py of NV-Generate-CTMR. Raises InvalidRequest.
    """
    table = variant.get("regions")
    if table is None:
        return None, None
    names = table["names"]
    covered = [name for name in names if not set(ids).isdisjoint(table["labels"][name])]
    covered = covered or [name for name in names if name in preset_regions]
    ends = []
    for end, default in (
        ("top", covered[0] if covered else table["top"]),
        ("bottom", covered[-1] if covered else table["bottom"]),
    ):
        region = text(inputs, f"{end}_region") if f"{end}_region" in inputs else default
        if region not in names:
            raise InvalidRequest(f"{end}_region: {quote(region)} is not one of {join(names)}")
        ends.append(region)
    top, bottom = ends
    if names.index(top) > names.index(bottom):
        raise InvalidRequest(
            f"top_region: {top!r} is below bottom_region, which is {bottom!r}; "
            f"from top to bottom the regions are {join(names)}"
        )
    return top, bottom
