"""What a caller may ask: checked, completed, and written down as a `Plan`."""

import dataclasses
import json
import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .inputs import (
    Array,
    Inputs,
    InvalidRequest,
    by,
    interval,
    join,
    number,
    quote,
    shortest,
    text,
    values,
    whole,
)

Variant = Mapping[str, Any]

INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Plan:
    """Everything that decides a volume but the arrays; what `report` gives back.

    `size` and `padded_size` in voxels, `spacing` in millimetres; regions are None where the variant
    has none; `guidance_interval` is in time, 1 at noise and 0 at the image; `started` is the
    monotonic clock of the machine and `condition_seconds` how long the first room took.
    """

    variant: str
    modality: str
    class_label: int
    size: tuple[int, int, int]
    padded_size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    seed: int
    steps: int
    guidance: float
    solver: str
    masked: bool
    top_region: str | None = None
    bottom_region: str | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    started: float = 0.0
    condition_seconds: float = 0.0

    def to_json(self, **more: float) -> str:
        """Return the plan, with `more` fields set, as the next rooms read it."""
        return json.dumps(dataclasses.asdict(self) | more)

    @property
    def rows(self) -> int:
        """Rows of conditioning: one, or conditional and unconditional under guidance."""
        return 2 if self.guidance > 0 else 1

    def guides(self, time: float) -> bool:
        """Tell whether guidance is applied at `time`, 0..1 and 1 at noise.

        Kynkäänniemi et al., https://arxiv.org/abs/2404.07724, where the interval is one of sigmas.
        """
        low, high = self.guidance_interval
        return low <= time <= high

    def latent_shape(self, variant: Variant) -> tuple[int, ...]:
        """Return [1, C, x, y, z]."""
        factor = variant["latent"]["factor"]
        return (1, variant["latent"]["channels"], *(side // factor for side in self.padded_size))


def complete(variant: Variant, inputs: Inputs) -> Plan:
    """Check `inputs`, the tensors of the public contract that are present, and fill in the rest.

    Raises InvalidRequest with one sentence naming the input, its value and what is allowed. Shapes
    are checked before any voxel is looked at.
    """
    defaults, limits = variant["defaults"], variant["limits"]
    mask = inputs.get("mask")
    size = _size(variant, inputs)
    padded = padded_size(variant, size)
    modality = _modality(variant, inputs)
    solver = text(inputs, "solver") if "solver" in inputs else defaults["solver"]
    if solver not in variant["solvers"]:
        raise InvalidRequest(f"solver: {quote(solver)} is not one of {join(variant['solvers'])}")
    spacing = _spacing(variant, inputs)
    ids = [] if mask is None else _labels(variant, mask)
    top, bottom = _regions(variant, inputs, ids)
    plan = Plan(
        variant=variant["name"],
        modality=modality,
        class_label=variant["modalities"][modality],
        size=size,
        padded_size=padded,
        spacing=spacing,
        seed=whole(inputs, "seed", secrets.randbelow(2**31), 0, INT64_MAX),
        steps=whole(inputs, "steps", defaults["steps"], *limits["steps"]),
        guidance=number(inputs, "guidance", defaults["guidance"], *limits["guidance"]),
        solver=solver,
        masked=mask is not None,
        top_region=top,
        bottom_region=bottom,
        guidance_interval=interval(inputs, "guidance_interval"),
    )
    if "latent" in inputs:
        check_latent(variant, plan, "latent", inputs["latent"])
    return plan


def parse_plan(variant: Variant, sent: Array) -> Plan:
    """Read a plan that an earlier room wrote, as untrusted as any other input.

    Raises InvalidRequest.
    """
    written = text({"plan": sent}, "plan", limit=10_000)
    try:
        fields = json.loads(written)
        for name in ("size", "padded_size", "spacing", "guidance_interval"):
            fields[name] = tuple(fields[name])
        plan = Plan(**fields)
        again = {
            "size": np.array(plan.size),
            "spacing": np.array(plan.spacing),
            "seed": np.array([plan.seed]),
            "steps": np.array([plan.steps]),
            "guidance": np.array([plan.guidance]),
            "guidance_interval": np.array(plan.guidance_interval),
            "solver": np.array([plan.solver], dtype=object),
            "modality": np.array([plan.modality], dtype=object),
        }
        if "regions" in variant:
            again["top_region"] = np.array([plan.top_region], dtype=object)
            again["bottom_region"] = np.array([plan.bottom_region], dtype=object)
        agreed = dataclasses.replace(
            complete(variant, again),
            masked=bool(plan.masked) and takes_mask(variant),
            started=plan.started,
            condition_seconds=plan.condition_seconds,
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"plan: {error}") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InvalidRequest("plan: not what the condition model of this variant writes") from error
    if agreed != plan or not _is_real(plan.started, plan.condition_seconds):
        raise InvalidRequest("plan: not what the condition model of this variant writes")
    return agreed


def takes_mask(variant: Variant) -> bool:
    """Tell whether the variant has a ControlNet, which alone understands masks."""
    return "labels" in conditions(variant)


def conditions(variant: Variant) -> tuple[str, ...]:
    """Return the names of the tensors with a row each for the condition and its absence."""
    return tuple(variant.get("conditions", ("labels", "class_labels", "spacing_mm100")))


def check_latent(variant: Variant, plan: Plan, name: str, latent: Array) -> None:
    """Refuse a latent of another shape than `plan` asks for, or with values that are not finite."""
    shape = plan.latent_shape(variant)
    if latent.shape != shape:
        raise InvalidRequest(
            f"{name}: shape {list(latent.shape)} does not fit a volume of {by(plan.size)} voxels, "
            f"which takes {list(shape)}"
        )
    if not np.isfinite(latent).all():
        raise InvalidRequest(f"{name}: holds NaN or infinite values, only finite ones are allowed")


def padded_size(variant: Variant, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return `size` rounded up to what the networks take."""
    multiple = variant["size"]["multiple"]
    x, y, z = (-(-side // multiple) * multiple for side in size)
    return x, y, z


def _size(variant: Variant, inputs: Inputs) -> tuple[int, int, int]:
    if "mask" in inputs:
        if "size" in inputs:
            raise InvalidRequest("size: given together with a mask, which already has a size")
        name, shape = "mask", inputs["mask"].shape
        if len(shape) != 3:
            raise InvalidRequest(f"mask: {len(shape)} axes, but a mask has three: [X, Y, Z]")
        sides = [int(side) for side in shape]
    elif "size" in inputs:
        name = "size"
        sides = [int(side) for side in values(inputs, name, 3)]
    else:
        name, sides = "size", variant["defaults"]["size"]
    x, y, z = sides
    low, high, most = (variant["size"][key] for key in ("min", "max", "max_voxels"))
    if not all(a <= side <= b for a, side, b in zip(low, sides, high, strict=True)):
        raise InvalidRequest(
            f"{name}: {by(sides)} voxels is outside what is allowed, {by(low)} to {by(high)}"
        )
    if x * y * z > most:
        raise InvalidRequest(
            f"{name}: {by(sides)} is {x * y * z} voxels, and at most {most} are allowed"
        )
    return x, y, z


def _spacing(variant: Variant, inputs: Inputs) -> tuple[float, float, float]:
    low, high = variant["spacing"]["min"], variant["spacing"]["max"]
    if "spacing" not in inputs:
        x, y, z = (float(side) for side in variant["defaults"]["spacing"])
        return x, y, z
    x, y, z = sides = [shortest(side) for side in values(inputs, "spacing", 3)]
    # Written so that NaN fails.
    if not all(a <= side <= b for a, side, b in zip(low, sides, high, strict=True)):
        raise InvalidRequest(
            f"spacing: {by(sides)} mm is outside what is allowed, {by(low)} to {by(high)} mm"
        )
    return x, y, z


def _modality(variant: Variant, inputs: Inputs) -> str:
    known: Mapping[str, int] = variant["modalities"]
    if "modality" not in inputs:
        return str(variant["defaults"]["modality"])
    asked = text(inputs, "modality")
    for name, code in known.items():
        if asked in (name, str(code)):
            return name
    allowed = join(f"{name} ({code})" for name, code in known.items())
    raise InvalidRequest(f"modality: {quote(asked)} is not one of {allowed}")


def _labels(variant: Variant, mask: Array) -> list[int]:
    """Return the ids in `mask`; refuse those that the variant does not know, and an empty mask."""
    seen = np.zeros(256, dtype=bool)
    for plane in mask:  # one at a time: an index takes eight bytes a voxel
        seen[plane] = True
    ids: list[int] = np.flatnonzero(seen).tolist()
    unknown = [label for label in ids if str(label) not in variant["labels"]]
    if unknown:
        allowed = join(sorted(int(label) for label in variant["labels"]))
        raise InvalidRequest(
            f"mask: holds {join(unknown)}, and the labels of {variant['name']} are {allowed}"
        )
    if ids == [0]:
        raise InvalidRequest("mask: every voxel is 0, and at least one must be a label")
    return ids


def _regions(
    variant: Variant, inputs: Inputs, ids: Collection[int]
) -> tuple[str | None, str | None]:
    """Return the body regions that hold the volume's top and bottom, as given or found in `ids`.

    A region is found when one of its labels is; without any, the variant's defaults stand. As
    get_body_region_index_from_mask in scripts/utils.py of NV-Generate-CTMR.
    """
    regions = variant.get("regions")
    if regions is None:
        return None, None
    names = regions["names"]
    found = [name for name in names if not set(ids).isdisjoint(regions["labels"][name])]
    ends = []
    for end, default in (
        ("top", found[0] if found else regions["top"]),
        ("bottom", found[-1] if found else regions["bottom"]),
    ):
        region = text(inputs, f"{end}_region") if f"{end}_region" in inputs else default
        if region not in names:
            raise InvalidRequest(f"{end}_region: {quote(region)} is not one of {join(names)}")
        ends.append(region)
    top, bottom = ends
    if names.index(top) > names.index(bottom):
        raise InvalidRequest(
            f"top_region: {top!r} lies below bottom_region, which is {bottom!r}; "
            f"from top to bottom the regions are {join(names)}"
        )
    return top, bottom


def _is_real(*values: Any) -> bool:
    return all(isinstance(value, float | int) and math.isfinite(value) for value in values)
