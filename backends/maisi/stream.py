"""One request of `<variant>.stream`, from its inputs to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import conditioning, decoder, fidelity, masks, preparation, sampler
from .errors import InvalidRequest
from .forecast import Pace
from .gate import Gate
from .inputs import Inputs, Variant, flag
from .preparation import as_text
from .progress import MASK_ENCODER, SAMPLER, WAITING, Progress
from .report import best, outlook, report
from .sampler import RunModel


def run(
    variant: Variant,
    inputs: dict[str, Any],
    run_model: RunModel,
    send: Callable[..., None],
    pace: Pace,
    gate: Gate,
    seconds: float,
) -> None:
    """Answer a request; `send(stage, progress, **outputs)` raises when the caller has gone.

    `seconds`: the request's time limit; it waits at the `gate` for the networks. A volume that does
    not follow its mask is made again from new noise, as often as the request says; the best of
    them is sent. `pace` learns how long the first one took. Raises InvalidRequest, Overloaded,
    TimeUp, Stopping, and what `run_model` and `send` raise.
    """
    arrays = {name: tensor.as_numpy() for name, tensor in inputs.items()}
    if flag(arrays, "check"):
        send("done", 1.0, report=as_text(_check(variant, arrays, pace, gate)))
        return

    with gate.ticket(seconds) as ticket:
        # 1. Check the request and complete it.
        plan, translated = preparation.plan_request(variant, arrays)
        mask_only = flag(arrays, "mask_only")
        if mask_only and not plan.masked:
            raise InvalidRequest("mask_only: true, but a mask or an anatomy is expected with it")

        # 2. Wait for the networks.
        progress = Progress(plan, send, ticket)
        ticket.expect(pace.expect(variant, plan), pace.least(variant, plan))
        progress.wait()

        # 3. Complete the mask, or make it; encode the source.
        with progress.stage("condition", 0.0):
            plan, mask = preparation.prepare_mask(
                variant, plan, translated, run_model, progress.mask_step
            )
            as_sent = mask is arrays.get("mask") and plan.organs is None and not mask_only
            used = {}
            if mask is not None and not as_sent:
                used["used_mask"] = preparation.returned_mask(plan, mask)
            if not mask_only:
                source_latent = preparation.encode_source(variant, plan, arrays, run_model)
        if mask_only:
            send("done", 1.0, **used, report=as_text(outlook(variant, plan, mask)))
            return

        # 4. Encode the conditions.
        conditions: dict[str, Any] = conditioning.rows(variant, plan)
        if mask is not None:
            with progress.stage("mask_encoder", MASK_ENCODER):
                ids = conditioning.labels(variant, plan, mask)
                conditions["embedding"] = preparation.encode_mask(ids, run_model)

        # 5. Sample and decode, until the volume follows its mask.
        attempts: list[dict[str, Any]] = []
        for attempt in range(plan.redraws + 1):
            with progress.stage("sampler", progress.of_attempt(attempt, 0)):
                latent = preparation.initial_latent(
                    variant, plan, source_latent, arrays.get("latent"), attempt
                )
                latent = sampler.sample(
                    variant,
                    plan,
                    latent,
                    conditions,
                    run_model,
                    progress.sampler_step(attempt),
                    preparation.first_row_of,
                    attempt,
                )
            with progress.stage("decoder", progress.of_attempt(attempt, SAMPLER)):
                volume = decoder.decode(variant, plan, latent, mask, run_model)
                if mask is not None:
                    attempts.append(fidelity.check(variant, volume, mask))
            if attempt == 0:
                pace.note(variant, plan, progress.seconds)
            if attempt == 0 or best(attempts) is attempts[-1]:
                image = volume
            if not attempts or attempts[-1]["faithful"] is not False:
                break

        # 6. Report.
        spent = progress.seconds | {
            WAITING: ticket.waited,
            "total": time.monotonic() - ticket.arrived,
        }
        summary = report(variant, plan, spent, image, mask, attempts)
        send("done", 1.0, image=image, **used, report=as_text(summary))


def _check(variant: Variant, arrays: Inputs, pace: Pace, gate: Gate) -> str:
    """Return the report of what would be made; nothing is."""
    plan, translated = preparation.plan_request(variant, arrays)
    mask = masks.complete(variant, plan, translated)
    expected = pace.expect(variant, plan)
    return outlook(variant, plan, mask, expected, gate.ahead(expected or 0.0))
