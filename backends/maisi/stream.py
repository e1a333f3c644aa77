"""Answer a request of `<variant>.stream`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import conditioning, decoder, fidelity, masks, request_steps, sampler
from .dlpack import first_row
from .errors import InvalidRequest
from .forecast import Pace
from .gate import WAITING, Gate
from .inputs import Inputs, Variant, flag
from .progress import MASK_ENCODER, SAMPLER, RequestProgress
from .report import best, outlook, report
from .request_steps import text_bytes
from .sampler import RunModel


def run(
    variant: Variant,
    inputs: dict[str, Any],
    run_model: RunModel,
    prepare: Callable[[str, int, tuple[int, ...]], None],
    send: Callable[..., None],
    pace: Pace,
    gate: Gate,
    time_limit: float,
) -> None:
    """Answer a request; `send(stage, progress, **outputs)` raises if the caller has gone.

    `prepare(network, rows, volume [X, Y, Z])` lets a network compile for a later call.
    `time_limit`: the seconds that the request may take. It waits in the queue `gate` for its start
    and for the networks, which it leaves once a latent is decoded. A volume that does not follow
    its mask is sampled again from new noise, as often as the request says, after the request has
    waited for the networks again; the best volume is sent. `pace` records the time of the first
    one. Raises InvalidRequest, Overloaded, TimeUp, Stopping, and what `run_model` and `send` raise.
    """
    arrays = {name: tensor.as_numpy() for name, tensor in inputs.items()}
    if flag(arrays, "check"):
        send("done", 1.0, report=text_bytes(_outlook(variant, arrays, pace, gate)))
        return

    with gate.ticket(time_limit) as ticket:
        # 1. Check the request and complete it.
        plan, translated = request_steps.plan_request(variant, arrays)
        mask_only = flag(arrays, "mask_only")
        if mask_only and not plan.masked:
            raise InvalidRequest("mask_only: true, but it needs a mask or an anatomy")

        # 2. Wait for the start; the first call of a network waits for the networks.
        progress = RequestProgress(plan, send, ticket)
        ticket.expect(pace.expect(variant, plan), pace.minimum(variant, plan))
        progress.begin()
        run_model = progress.gated(run_model)
        if not mask_only:
            for network, rows in request_steps.networks(variant, plan):
                prepare(network, rows, plan.padded_size)

        # 3. Complete or generate the mask; encode the source.
        with progress.stage("condition", 0.0):
            plan, mask = request_steps.prepare_mask(
                variant, plan, translated, run_model, progress.mask_step
            )
            unchanged = mask is arrays.get("mask") and plan.organs is None and not mask_only
            mask_outputs = {}
            if mask is not None and not unchanged:
                mask_outputs["used_mask"] = request_steps.returned_mask(plan, mask)
            if not mask_only:
                source_latent = request_steps.encode_source(variant, plan, arrays, run_model)
        if mask_only:
            send("done", 1.0, **mask_outputs, report=text_bytes(outlook(variant, plan, mask)))
            return

        # 4. Encode the conditions.
        conditions: dict[str, Any] = conditioning.condition_rows(variant, plan)
        if mask is not None:
            with progress.stage("mask_encoder", MASK_ENCODER):
                ids = conditioning.label_rows(variant, plan, mask)
                conditions["embedding"] = request_steps.encode_mask(ids, run_model)

        # 5. Sample and decode, until the volume follows its mask.
        attempts: list[dict[str, Any]] = []
        for attempt in range(plan.redraws + 1):
            with progress.stage("sampler", progress.of_attempt(attempt, 0)):
                latent = request_steps.initial_latent(
                    variant, plan, source_latent, arrays.get("latent"), attempt
                )
                latent = sampler.sample(
                    variant,
                    plan,
                    latent,
                    conditions,
                    run_model,
                    progress.sampler_step(attempt),
                    first_row,
                    attempt,
                )
            with progress.stage("decoder", progress.of_attempt(attempt, SAMPLER)):
                levels = decoder.decoded(plan, latent, run_model)
                del latent  # tensors may be on a GPU
                if attempt == plan.redraws:
                    conditions.clear()
                ticket.leave(1.0 if mask is None else progress.of_attempt(attempt + 1, 0))
                volume = decoder.with_background(variant, levels, mask)
                del levels
                if mask is not None:
                    attempts.append(fidelity.measure(variant, volume, mask))
            if attempt == 0:
                pace.note(variant, plan, progress.seconds)
            if attempt == 0 or best(attempts) is attempts[-1]:
                image = volume
            if not attempts or attempts[-1]["faithful"] is not False:
                break

        # 6. Report.
        seconds = progress.seconds | {
            WAITING: ticket.waited,
            "total": time.monotonic() - ticket.arrived,
        }
        summary = report(variant, plan, seconds, image, mask, attempts)
        send("done", 1.0, image=image, **mask_outputs, report=text_bytes(summary))


def _outlook(variant: Variant, arrays: Inputs, pace: Pace, gate: Gate) -> str:
    """Return the outlook of a request, without a call of a network."""
    plan, translated = request_steps.plan_request(variant, arrays)
    mask = masks.add_body_and_augment(variant, plan, translated)
    expected = pace.expect(variant, plan)
    return outlook(variant, plan, mask, expected, gate.expected_wait(expected or 0.0))
