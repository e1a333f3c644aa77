"""The rooms that a request walks through: condition, sampler, decoder, and all of them in a row."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import anatomy, conditioning, decoder, fidelity, masks, sampler, source, stopping
from .errors import InvalidRequest
from .forecast import Pace
from .gate import Gate, Place
from .inputs import Array, Inputs, Variant, flag, written
from .report import best, outlook, report
from .request import (
    Plan,
    check_labels,
    check_latent,
    complete,
    labels,
    parse_plan,
    regions,
    signed,
    takes_mask,
)
from .rows import first_row
from .sampler import Engine

Tensors = dict[str, Any]

# How much of a whole request has passed when it begins, and of an attempt when sampling ends.
_MASK_ENCODER, _ATTEMPTS = 0.02, 0.05
_SAMPLING = 0.84
WAITING = "waiting"  # the stage of a request that stands still
_TELL = 1.0  # seconds between two signs of life while it does


def condition(variant: Variant, inputs: Tensors, engine: Engine) -> Tensors:
    """Run the first room: check, complete, and prepare what the networks take."""
    started = time.monotonic()
    given = {name: tensor.as_numpy() for name, tensor in inputs.items()}
    plan, mask = _masked(variant, *_planned(variant, given), engine)
    ids = {"labels": conditioning.labels(variant, plan, mask)} if takes_mask(variant) else {}
    noise = _start(variant, plan, _encoded(variant, plan, given, engine), given.get("latent"))
    took = {"started": started, "condition_seconds": time.monotonic() - started}
    return {"noise": noise, **ids, "plan": as_text(signed(plan, **took))}


def sample(variant: Variant, inputs: Tensors, engine: Engine) -> Tensors:
    """Encode the mask and run the loop."""
    plan = parse_plan(variant, inputs["plan"].as_numpy())
    check_latent(variant, plan, "noise", inputs["noise"].as_numpy())
    steered: Tensors = conditioning.rows(variant, plan)
    seconds: dict[str, float] = {}
    if plan.masked:
        started, ids = time.monotonic(), inputs["labels"]
        check_labels(plan, ids.as_numpy())
        (steered["embedding"],) = engine("mask_encoder", {"labels": ids}, ["embedding"])
        seconds["mask_encoder"] = time.monotonic() - started
    started = time.monotonic()
    latent = sampler.sample(variant, plan, inputs["noise"], steered, engine, first_row=_first_row)
    seconds["sampler"] = time.monotonic() - started
    return {"latent": latent, "sampled": as_text(json.dumps({"seconds": seconds}))}


def decode(variant: Variant, inputs: Tensors, engine: Engine) -> Tensors:
    """Run the last room of the ensemble."""
    started = time.monotonic()
    plan = parse_plan(variant, inputs["plan"].as_numpy())
    check_latent(variant, plan, "latent", inputs["latent"].as_numpy())
    mask = None
    if plan.masked:
        check_labels(plan, inputs["labels"].as_numpy())
        mask = _crop(plan, inputs["labels"].as_numpy())
        labels(variant, mask)
    image = decoder.decode(variant, plan, inputs["latent"], mask, engine)
    attempts = [] if mask is None else [fidelity.check(variant, image, mask)]
    seconds = {
        "condition": plan.condition_seconds,
        **_seconds(inputs["sampled"].as_numpy()),
        "decoder": time.monotonic() - started,
        "total": time.monotonic() - plan.started,
    }
    return {
        "image": image,
        "report": as_text(report(variant, plan, seconds, image, mask, attempts)),
        **({"used_mask": _kept(plan, mask)} if takes_mask(variant) else {}),
    }


ROOMS: dict[str, Callable[[Variant, Tensors, Engine], Tensors]] = {
    "condition": condition,
    "sampler": sample,
    "decoder": decode,
}


def walk(
    variant: Variant,
    inputs: Tensors,
    engine: Engine,
    send: Callable[..., None],
    pace: Pace,
    gate: Gate,
    seconds: float,
) -> None:
    """Walk all rooms; `send(stage, progress, **outputs)` raises when the caller has gone.

    The request has so many `seconds`, and goes through the `gate` to the networks. A volume that is
    not faithful to its mask is made again from new noise, as often as the plan says; the best of
    them is sent. With the input `check` nothing is made: the answer is what would be. `pace` learns
    how long it took.
    """
    given = {name: tensor.as_numpy() for name, tensor in inputs.items()}
    if flag(given, "check"):
        plan, known = _planned(variant, given)
        mask = masks.complete(variant, plan, known)
        expected = pace.expect(variant, plan)
        told = outlook(variant, plan, mask, expected, gate.ahead(expected or 0.0))
        send("done", 1.0, report=as_text(told))
        return
    with gate.place(seconds) as place:
        _make(variant, given, engine, send, pace, place)


def _make(
    variant: Variant,
    given: Inputs,
    engine: Engine,
    send: Callable[..., None],
    pace: Pace,
    place: Place,
) -> None:
    plan, known = _planned(variant, given)
    alone = flag(given, "mask_only")
    if alone and not plan.masked:
        raise InvalidRequest("mask_only: given without a mask or an anatomy")
    seconds: dict[str, float] = {}
    reached, told = 0.0, 0.0

    def tell(stage: str, progress: float) -> None:
        nonlocal reached
        send(stage, progress)
        reached = progress

    def still() -> None:
        nonlocal told
        stopping.go_on(plan.seed)
        if time.monotonic() - told > _TELL:
            send(WAITING, reached)
            told = time.monotonic()

    def begin(stage: str, progress: float) -> None:
        tell(stage, progress)
        seconds[stage] = seconds.get(stage, 0.0) - place.clock()

    def end(stage: str) -> None:
        seconds[stage] += place.clock()

    def step(stage: str, progress: float) -> None:
        tell(stage, progress)
        place.step(progress, still)

    place.expect(pace.expect(variant, plan), pace.least(variant, plan))
    place.begin(still)
    begin("condition", 0.0)
    plan, mask = _masked(
        variant, plan, known, engine, lambda done, total: step("mask", _MASK_ENCODER * done / total)
    )
    as_sent = mask is given.get("mask") and plan.organs is None and not alone
    used = {} if mask is None or as_sent else {"used_mask": _kept(plan, mask)}
    if alone:
        end("condition")
        send("done", 1.0, **used, report=as_text(outlook(variant, plan, mask)))
        return
    steered: Tensors = conditioning.rows(variant, plan)
    encoded = _encoded(variant, plan, given, engine)
    end("condition")

    if mask is not None:
        begin("mask_encoder", _MASK_ENCODER)
        ids = conditioning.labels(variant, plan, mask)
        (steered["embedding"],) = engine("mask_encoder", {"labels": ids}, ["embedding"])
        end("mask_encoder")

    attempts: list[dict[str, Any]] = []

    def make(attempt: int) -> Array:
        at = functools.partial(_progress, plan, attempt)

        def after(done: int, total: int) -> None:
            step("sampler", at(_SAMPLING * done / total))

        begin("sampler", at(0))
        noise = _start(variant, plan, encoded, given.get("latent"), attempt)
        latent = sampler.sample(variant, plan, noise, steered, engine, after, _first_row, attempt)
        end("sampler")
        begin("decoder", at(_SAMPLING))
        image = decoder.decode(variant, plan, latent, mask, engine)
        if mask is not None:
            attempts.append(fidelity.check(variant, image, mask))
        end("decoder")
        return image

    image = make(0)
    pace.note(variant, plan, seconds)
    for attempt in range(1, plan.redraws + 1):
        if not attempts or attempts[-1]["faithful"] is not False:
            break
        another = make(attempt)
        image = another if best(attempts) is attempts[-1] else image
    seconds |= {WAITING: place.waited, "total": time.monotonic() - place.arrived}
    summary = report(variant, plan, seconds, image, mask, attempts)
    send("done", 1.0, image=image, **used, report=as_text(summary))


def _planned(variant: Variant, given: Inputs) -> tuple[Plan, Inputs]:
    """Return what is to be made, and the inputs with the mask in MAISI's ids."""
    known = masks.translate(variant, given)
    return complete(variant, known), known


def _masked(
    variant: Variant,
    plan: Plan,
    known: Inputs,
    engine: Engine,
    after: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Plan, Array | None]:
    """Return the plan and the mask [X, Y, Z] that came or was made; `after` hears of its steps."""
    if plan.anatomy is None:
        return plan, masks.complete(variant, plan, known)
    mask = masks.generate(variant, plan, engine, after)
    top, bottom = regions(variant, known, labels(variant, mask), ())
    return dataclasses.replace(plan, top_region=top, bottom_region=bottom), mask


def _encoded(variant: Variant, plan: Plan, given: Inputs, engine: Engine) -> Array | None:
    """Return the latent of the source, where there is one."""
    return source.encode(variant, plan, given["source"], engine) if plan.sourced else None


def _start(
    variant: Variant, plan: Plan, encoded: Array | None, latent: Array | None, attempt: int = 0
) -> Array:
    """Return the latent that an attempt starts from."""
    noise = conditioning.noise(variant, plan, latent, attempt)
    return noise if encoded is None else source.noised(variant, plan, encoded, noise)


def _progress(plan: Plan, attempt: int, done: float) -> float:
    """Return how much of the whole has passed when an attempt is `done`, 0..1."""
    return _ATTEMPTS + (1 - _ATTEMPTS) * (attempt + done) / (plan.redraws + 1)


def _first_row(name: str, value: Any) -> Any:
    """Return the first row of an array or of a tensor of Triton, without a copy."""
    if isinstance(value, np.ndarray):
        return value[:1]
    take = functools.partial(type(value).from_dlpack, name)
    return first_row(value.to_dlpack(), take)


def as_text(text: str) -> npt.NDArray[np.uint8]:
    """Return a text as outputs hold it: its UTF-8 bytes, uint8 [N]."""
    return np.frombuffer(text.encode(), np.uint8)


def _kept(plan: Plan, mask: Array | None) -> npt.NDArray[np.uint8]:
    """Return the mask to give back; one voxel of background where there is none."""
    if mask is None:
        return np.zeros((1, 1, 1), np.uint8)
    return mask if plan.organs is None else anatomy.only(mask, plan.organs)


def _crop(plan: Plan, labels: Array) -> Array:
    x, y, z = plan.size
    return labels[0, :x, :y, :z]


def _seconds(sampled: Array) -> dict[str, float]:
    """Return the seconds of the sampler's stages."""
    try:
        seconds = json.loads(written("sampled", sampled, 1000))["seconds"]
        stages = {"sampler": float(seconds["sampler"])}
        if "mask_encoder" in seconds:
            stages = {"mask_encoder": float(seconds["mask_encoder"]), **stages}
        if not all(0 <= spent < math.inf for spent in stages.values()):  # NaN fails, too
            raise ValueError
        return stages
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise InvalidRequest("sampled: not what the sampler model writes") from None
