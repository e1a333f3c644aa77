"""Step `served`: measure Triton's overhead of a step, and concurrent requests to the ensemble."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import tritonclient.grpc as grpc

from bench import overhead
from bench.acceptance import loading, machine, weights
from bench.acceptance.parity import no_engine
from bench.acceptance.steps import Case, NotDone, Setting, TableRows
from bench.launcher import Server
from bench.network_inputs import infer_inputs
from bench.workload import Array, Workload

_LATENTS = {"cuda": (32, 64), "cpu": (8,)}
_SIZES = {"cuda": 128, "cpu": 32}  # voxels per side, for concurrent requests
_LARGE = {"cuda": (512, 128), "cpu": (64, 32)}  # voxels along x and y, and along z
_AT_ONCE = (1, 2, 4)
_STEPS, _EACH, _REPEAT = 5, 2, 3
_WAIT = 400.0  # seconds


def cases(setting: Setting) -> list[Case]:
    """Return the cases for one engine."""
    names = machine.engine_names(setting)
    if not names:
        return [Case("engines", no_engine)]
    # An engine with ONNX files is preferred, so that an idle graph can replace the flow.
    engine = "onnxruntime-cuda" if "onnxruntime-cuda" in names else names[0]
    runs = {
        "a step": _step,
        "a step that computes nothing": _idle,
        "at once": _at_once,
        "a large volume": _large,
    }
    title = f"{setting.variants[0]}, {engine}"
    return [Case(f"{title}: {what}", partial(run, setting, engine)) for what, run in runs.items()]


def _subject(setting: Setting, engine: str) -> overhead.Subject:
    name, precision = setting.variants[0], "fp16" if setting.gpu else "fp32"
    weights.version_folder(setting, name, "flow_masked", engine, precision)
    repository = weights.models(setting, name, loading.TARGETS[engine], precision)
    return overhead.Subject(
        name, repository, precision, lambda folder: loading.load(folder, engine)
    )


def _step(setting: Setting, engine: str) -> TableRows:
    rows = overhead.pairs(_subject(setting, engine), _LATENTS[setting.device], _REPEAT)
    return [
        {
            "of": f"latent {side}^3",
            "ms per step": 1e3 * served,
            "in process, ms": 1e3 * in_process,
            "ratio": served / in_process,
        }
        for side, served, in_process in rows
    ]


def _idle(setting: Setting, engine: str) -> TableRows:
    if loading.TARGETS[engine] != "onnx":
        raise NotDone(f"{engine} runs plans, but the graph that computes nothing is an ONNX file")
    times = overhead.call_seconds(_subject(setting, engine), _LATENTS[setting.device], _REPEAT)
    return [
        {"of": f"latent {side}^3", "ms per step": 1e3 * elapsed} for side, elapsed in times.items()
    ]


@contextmanager
def _serving(setting: Setting, engine: str) -> Iterator[tuple[str, str]]:
    """Serve the variant; yield its name and the gRPC address."""
    subject = _subject(setting, engine)
    log = setting.folder / "served.server.log"
    with Server(subject.repository, log, f"--models={subject.variant}") as server:
        yield subject.variant, server.grpc


def _at_once(setting: Setting, engine: str) -> TableRows:
    side = _SIZES[setting.device]
    rows: TableRows = []
    digests = set()
    with _serving(setting, engine) as (variant, url):
        request(url, variant, (side, side))
        for count in _AT_ONCE:
            begin = time.perf_counter()
            with ThreadPoolExecutor(count) as pool:
                requests = [(url, variant, (side, side))] * (_EACH * count)
                answers = list(pool.map(lambda words: request(*words), requests))
            elapsed = time.perf_counter() - begin
            digests |= {digest for _, _, digest in answers}
            rate = len(answers) / elapsed
            rows.append(
                {
                    "of": f"{count} at once, {side}^3, {_STEPS} steps",
                    "volumes/s": rate,
                    "s per request": statistics.median(seconds for seconds, _, _ in answers),
                    "ratio": rate / (rows[0]["volumes/s"] if rows else rate),
                }
            )
    if len(digests) > 1:
        raise ValueError(f"equal requests returned {len(digests)} different volumes; 1 is expected")
    return rows


def _large(setting: Setting, engine: str) -> TableRows:
    side, depth = _LARGE[setting.device]
    with _serving(setting, engine) as (variant, url):
        request(url, variant, (side, depth))
        total, stages, _ = request(url, variant, (side, depth))
    row: dict[str, Any] = {"of": f"{side}x{side}x{depth}, {_STEPS} steps", "s per request": total}
    return [row | {f"{stage}, s": stages.get(stage) for stage in ("sampler", "decoder")}]


def request(url: str, variant: str, sides: tuple[int, int]) -> tuple[float, dict[str, float], str]:
    """Request a volume from the ensemble, with `sides` voxels along x and y, and along z.

    Return the seconds until the answer, the seconds of each stage, and the SHA-256 of the volume.
    """
    workload = Workload(variant, sides[0], _STEPS, "", "", "", depth=sides[1])
    arrays = {name: x for name, x in workload.request().items() if name != "latent"}
    inputs = infer_inputs(arrays)
    with grpc.InferenceServerClient(url) as client:
        begin = time.perf_counter()
        answer = client.infer(variant, inputs, client_timeout=_WAIT)
        elapsed = time.perf_counter() - begin
    report = json.loads(answer.as_numpy("report").tobytes())
    image: Array = answer.as_numpy("image")
    return elapsed, report["seconds"], hashlib.sha256(image.tobytes()).hexdigest()
