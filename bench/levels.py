"""Measure and summarise levels of load, and render them as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench import page
from bench.perf_analyzer import Endpoint, Failed, Load, RequestTimes
from bench.servers import NOTHING, Counts, statistics

STEPS_OF_ENSEMBLE = ("condition", "sampler", "decoder")


@dataclass(frozen=True)
class LevelResult:
    """A measured level: volumes per second, latencies and mean times in milliseconds.

    A number that does not exist is None. `sampler` includes `flow`, and `decoder` includes
    `vae_decoder`. `rest` is the mean latency minus the queue and the stages. `queue` of a stream is
    the time until the stream begins, including the transport of the request.
    """

    endpoint: str
    transport: str
    load: str
    requests: int
    errors: int
    volumes_per_s: float | None = None
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    queue: float | None = None
    condition: float | None = None
    mask_encoder: float | None = None
    sampler: float | None = None
    flow: float | None = None
    decoder: float | None = None
    vae_decoder: float | None = None
    rest: float | None = None


def summarise(
    name: str,
    endpoint: Endpoint,
    load: Load,
    requests: Sequence[RequestTimes],
    counts: Mapping[str, Counts],
    masked: bool,
    steps: int,
) -> LevelResult:
    """Return the result of a level of `requests` to an endpoint of the variant `name`.

    `counts` has the counts of each model during the level. `masked` says whether the requests have
    a mask and thus use the mask encoder.
    """
    # With a rate, perf_analyzer may send more requests than it counts.
    answered = max(counts.get(endpoint.model, NOTHING).answered, 1)
    latencies = np.array([request.latency for request in requests]) * 1e3
    span = max(request.responses[-1] for request in requests) - requests[0].start
    # The nearest rank is a measured latency, not an interpolation between two latencies.
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99], method="inverted_cdf").tolist()

    def spent(*models: str) -> float:
        each = [counts.get(f"{name}.{model}", NOTHING) for model in models]
        return sum(model.total_ns - model.queue_ns for model in each) / answered / 1e6

    if endpoint.streaming:
        queue, stages = stages_of_stream(requests, masked, steps)
    else:
        models = [counts.get(f"{name}.{step}", NOTHING) for step in STEPS_OF_ENSEMBLE]
        queue = sum(model.queue_ns for model in models) / answered / 1e6
        stages = {step: spent(step) for step in STEPS_OF_ENSEMBLE}
        if masked:  # the sampler calls the mask encoder
            stages["mask_encoder"] = spent("mask_encoder")
            stages["sampler"] -= stages["mask_encoder"]
    mean = float(latencies.mean())
    return LevelResult(
        *endpoint_names(endpoint),
        load=str(load),
        requests=len(requests),
        errors=0,
        volumes_per_s=len(requests) / span,
        mean=mean,
        p50=p50,
        p95=p95,
        p99=p99,
        queue=queue,
        condition=stages["condition"],
        mask_encoder=stages.get("mask_encoder"),
        sampler=stages["sampler"],
        flow=spent("flow", "flow_masked"),
        decoder=stages["decoder"],
        vae_decoder=spent("vae_decoder"),
        rest=mean - queue - sum(stages.values()),
    )


def stages_of_stream(
    requests: Sequence[RequestTimes], masked: bool, steps: int
) -> tuple[float, dict[str, float]]:
    """Return the mean milliseconds until a stream began, and the mean milliseconds of each stage.

    The times are from the progress that a stream reports: waiting, any number of times; condition;
    mask_encoder if the request has a mask; sampler; every step; decoder; done. The requests are
    equal and thus do not interrupt each other. Raises Failed if a stream reported less.
    """
    count = 4 + masked + steps
    if any(len(request.responses) < count for request in requests):
        raise Failed("The stream did not report every stage.")
    responses = [request.responses[-count:] for request in requests]
    queue = np.mean([times[0] - r.start for times, r in zip(responses, requests, strict=True)])
    times = np.array([[*times[: 2 + masked], *times[-2:]] for times in responses])
    names = ("condition", *(("mask_encoder",) if masked else ()), "sampler", "decoder")
    means = np.diff(times).mean(0) * 1e3
    return float(queue) * 1e3, dict(zip(names, means.tolist(), strict=True))


def endpoint_names(endpoint: Endpoint) -> tuple[str, str]:
    """Return the names of an endpoint and its transport for the table."""
    endpoint_name = "stream" if endpoint.streaming else "ensemble"
    return endpoint_name, "shared memory" if endpoint.shared_memory else "gRPC"


def table(rows: Sequence[LevelResult]) -> str:
    """Return the rows in Markdown with times in ms, and with errors if a request failed."""

    def ms(value: float | None, part: float | None = None) -> str:
        if value is None:
            return ""
        digits = 0 if value >= 10 else 1
        return f"{value:.{digits}f}" + ("" if part is None else f" ({part:.{digits}f})")

    errors = any(each.errors for each in rows)
    head = ["endpoint", "transport", "load", "volumes/s", "p50", "p95", "p99", "queue", "condition"]
    head += ["mask encoder", "sampler (flow)", "decoder (VAE)", "rest", *(["errors"] * errors)]
    lines = []
    for each in rows:
        speed = "" if each.volumes_per_s is None else f"{each.volumes_per_s:.3g}"
        line = [each.endpoint, each.transport, each.load, speed]
        line += [ms(value) for value in (each.p50, each.p95, each.p99)]
        line += [ms(value) for value in (each.queue, each.condition, each.mask_encoder)]
        line += [ms(each.sampler, each.flow), ms(each.decoder, each.vae_decoder), ms(each.rest)]
        lines.append([*line, *([str(each.errors)] * errors)])
    return page.table(head, lines)


def measure(
    run: Callable[[], Sequence[RequestTimes]],
    url: str,
    name: str,
    endpoint: Endpoint,
    load: Load,
    masked: bool,
    steps: int,
) -> tuple[LevelResult, str]:
    """Call `run`, which sends one level of load to an endpoint of the server at `url` (gRPC).

    Return the result and, if `run` raised Failed, its message, else "".
    """
    before = statistics(url)
    try:
        requests = run()
        counts = _since(before, statistics(url))
        return summarise(name, endpoint, load, requests, counts, masked, steps), ""
    except Failed as error:
        failed = _since(before, statistics(url)).get(endpoint.model, NOTHING).failed
        errors = max(failed, 1)
        failure = LevelResult(
            *endpoint_names(endpoint), load=str(load), requests=load.requests, errors=errors
        )
        return failure, str(error)


def _since(before: Mapping[str, Counts], after: Mapping[str, Counts]) -> dict[str, Counts]:
    return {model: counts.since(before.get(model, NOTHING)) for model, counts in after.items()}
