"""What a caller may ask: checked, completed, and written down as a `Plan`."""

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
    text,
    whole,
    written,
)

INT64_MAX = 2**63 - 1
_STRENGTH = 0.8
_SIGNATURE = 64  # hexadecimal digits of an HMAC-SHA256
_MOST_RETRIES = 5


@dataclass(frozen=True)
class Plan:
    """Everything that decides a volume but the arrays; what `report` gives back.

    `size` and `padded_size` in voxels, `spacing` in millimetres; regions are None where the variant
    has none; `guidance_interval` is in time, 1 at noise and 0 at the image; `vocabulary` names the
    labels of the mask that came, `body_added` tells that it lacks the body around its organs and
    `augmented` that it is to be made a little different;
    `anatomy` are the ten sizes of a mask to be made, and `organs` the ids that the mask given back
    keeps; `sourced` tells that it starts from an image noised to `strength`, 1 being noise alone;
    `redraws` is how often a volume that is not faithful is made anew. `started` is the monotonic
    clock of the machine and `condition_seconds` how long the first stage took.
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
    mask, sourced = inputs.get("mask"), "source" in inputs
    preset, chosen = grid.preset(variant, inputs)
    size = grid.size(variant, inputs, chosen["size"])
    modality = _modality(variant, inputs, chosen["modality"])
    sizes = anatomy.parse(variant, inputs)
    if sizes is not None and (given := [name for name in ("mask", "source") if name in inputs]):
        raise InvalidRequest(f"anatomy: given together with a {given[0]}, which has its own")
    solver = text(inputs, "solver") if "solver" in inputs else defaults["solver"]
    if solver not in variant["solvers"]:
        raise InvalidRequest(f"solver: {quote(solver)} is not one of {join(variant['solvers'])}")
    if "strength" in inputs and not sourced:
        raise InvalidRequest("strength: given without a source, the volume to start from")
    if flag(inputs, "augment") and mask is None:
        raise InvalidRequest("augment: given without a mask, the one to be made different")
    if "redraws" in inputs and "latent" in inputs:
        raise InvalidRequest("redraws: given together with a latent, which is the only noise then")
    ids = [] if mask is None else labels(variant, mask)
    top, bottom = regions(variant, inputs, ids, chosen.get("regions", ()))
    plan = Plan(
        variant=variant["name"],
        modality=modality,
        class_label=variant["modalities"][modality],
        size=size,
        padded_size=grid.padded_size(variant, size),
        spacing=grid.spacing(variant, inputs, chosen["spacing"]),
        seed=whole(inputs, "seed", secrets.randbelow(2**31), 0, INT64_MAX),
        steps=whole(inputs, "steps", defaults["steps"], *limits["steps"]),
        guidance=number(inputs, "guidance", defaults["guidance"], *limits["guidance"]),
        solver=solver,
        masked=mask is not None or sizes is not None,
        top_region=top,
        bottom_region=bottom,
        guidance_interval=interval(inputs, "guidance_interval"),
        preset=preset,
        vocabulary=text(inputs, "vocabulary") if "vocabulary" in inputs else None,
        body_added=bool(ids) and str(BODY) in variant["labels"] and BODY not in ids,
        augmented=flag(inputs, "augment"),
        anatomy=sizes,
        organs=anatomy.keep(variant, inputs),
        sourced=sourced,
        strength=number(inputs, "strength", _STRENGTH if sourced else 1, 0, 1),
        redraws=whole(inputs, "redraws", 0, 0, _MOST_RETRIES),
    )
    if "latent" in inputs:
        check_latent(variant, plan, "latent", inputs["latent"])
    return plan


def signed(plan: Plan, **more: float) -> str:
    """Return the plan, with `more` fields set, as `parse_plan` reads it: its HMAC and its JSON."""
    text = json.dumps(dataclasses.asdict(plan) | more)
    return guard.sign(text) + text


def parse_plan(variant: Variant, sent: Array) -> Plan:
    """Read the plan that the variant's condition model in this server signed, uint8 [N].

    Raises InvalidRequest for any other.
    """
    text = written("plan", sent, 10_000)
    signature, text = text[:_SIGNATURE], text[_SIGNATURE:]
    right = hmac.compare_digest(signature.encode(), guard.sign(text).encode())
    fields = json.loads(text) if right else {}
    if fields.get("variant") != variant["name"]:
        raise InvalidRequest(f"plan: not what {variant['name']}.condition of this server writes")
    for name in ("size", "padded_size", "spacing", "guidance_interval", "anatomy", "organs"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return Plan(**fields)


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


def check_labels(plan: Plan, ids: Array) -> None:
    """Refuse label ids for the mask encoder of another shape than `plan` asks for."""
    shape = (plan.rows, *plan.padded_size)
    if ids.shape != shape:
        raise InvalidRequest(
            f"labels: shape {list(ids.shape)} does not fit the plan, which takes {list(shape)}"
        )


def _modality(variant: Variant, inputs: Inputs, default: str) -> str:
    known: Mapping[str, int] = variant["modalities"]
    if "modality" not in inputs:
        return default
    asked = text(inputs, "modality")
    for name, code in known.items():
        if asked in (name, str(code)):
            return name
    allowed = join(f"{name} ({code})" for name, code in known.items())
    raise InvalidRequest(f"modality: {quote(asked)} is not one of {allowed}")


def labels(variant: Variant, mask: Array) -> list[int]:
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


def regions(
    variant: Variant, inputs: Inputs, ids: Collection[int], chosen: Sequence[str]
) -> tuple[str | None, str | None]:
    """Return the body regions that hold the volume's top and bottom, as given or found in `ids`.

    A region is found when one of its labels is; without any, those `chosen` by a preset, else the
    variant's defaults stand. As
    get_body_region_index_from_mask in scripts/utils.py of NV-Generate-CTMR.
    """
    known = variant.get("regions")
    if known is None:
        return None, None
    names = known["names"]
    found = [name for name in names if not set(ids).isdisjoint(known["labels"][name])]
    found = found or [name for name in names if name in chosen]
    ends = []
    for end, default in (
        ("top", found[0] if found else known["top"]),
        ("bottom", found[-1] if found else known["bottom"]),
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
