"""Read statistics and contracts of servers, write endpoints for perf_analyzer, send requests."""

from __future__ import annotations

import base64
import json
import queue
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from bench import ROOT
from bench.launcher import Server, ServerFailed
from bench.network_inputs import infer_inputs

MASK = ROOT / "examples" / "brain_mask.nii.gz"
NARROW, NARROW_STREAM = "loadtest", "loadtest_stream"
_SEED = 7
_KINDS = {"steps": np.int32, "seed": np.int64, "size": np.int32, "strength": np.float32}


@dataclass(frozen=True)
class Counts:
    """Answered and failed requests of a model since it was loaded, and their times in ns."""

    answered: int
    failed: int
    total_ns: int
    queue_ns: int

    def since(self, before: Counts) -> Counts:
        """Return the counts minus `before`."""
        return Counts(
            self.answered - before.answered,
            self.failed - before.failed,
            self.total_ns - before.total_ns,
            self.queue_ns - before.queue_ns,
        )


NOTHING = Counts(0, 0, 0, 0)


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """Yield a tritonclient that is connected to a server.

    Raises ServerFailed if the server refuses a call in the block.
    """
    client = grpc.InferenceServerClient(url)
    try:
        yield client
    except grpc.InferenceServerException as error:
        reason = (error.message() or "no reason given").strip().rstrip(".")
        raise ServerFailed(f"The server at {url} did not answer: {reason}.") from None
    finally:
        client.close()


def statistics(url: str) -> dict[str, Counts]:
    """Return Triton's statistics of each model; raise ServerFailed if the server does not answer.

    `url` is the server's gRPC address.
    """
    with connected(url) as client:
        models = client.get_inference_statistics(client_timeout=30).model_stats
    return {
        model.name: Counts(
            model.inference_stats.success.count,
            model.inference_stats.fail.count,
            model.inference_stats.success.ns,
            model.inference_stats.queue.ns,
        )
        for model in models
    }


def variant(url: str, name: str) -> dict[str, Any]:
    """Return what a server publishes of a variant, such as labels.

    `masks` of the result says whether the variant has the input `mask`. Raises ServerFailed if
    there is no such variant.
    """
    with connected(url) as client:
        return _facts(client.get_model_config(name, client_timeout=30).config, url)


def variant_in(repository: Path, name: str) -> dict[str, Any]:
    """Return the result of `variant` for a model repository."""
    return _facts(_config(repository, name), str(repository))


def _facts(config: Any, where: str) -> dict[str, Any]:
    if "variant" not in config.parameters or not config.HasField("ensemble_scheduling"):
        raise ServerFailed(f"The model {config.name!r} of {where} is not a variant's ensemble.")
    facts: dict[str, Any] = json.loads(config.parameters["variant"].string_value)
    return {**facts, "masks": any(tensor.name == "mask" for tensor in config.input)}


def _config(repository: Path, model: str) -> Any:
    text = repository / model / "config.pbtxt"
    if not text.is_file():
        raise ServerFailed(f"The model repository {repository} has no model {model!r}.")
    return text_format.Parse(text.read_text(), pb.ModelConfig())


@contextmanager
def keyed(repository: Path, log: Path, *arguments: str) -> Iterator[tuple[Server, str]]:
    """Serve `repository` with an operator's key; yield the server and the key.

    A server with a key offers no shared memory to clients without the key. Raises ServerFailed if
    the server does not start.
    """
    key, path = secrets.token_hex(16), log.with_suffix(".key")
    path.write_text(key)
    try:
        with Server(repository, log, f"--key-file={path}", *arguments) as server:
            yield server, key
    finally:
        path.unlink()


def add_narrow_endpoints(
    repository: Path, name: str, request: Mapping[str, Any], folder: Path
) -> None:
    """Fill the empty `folder` with `repository`'s models of a variant and two more endpoints.

    The endpoints `<variant>.loadtest` and `<variant>.loadtest_stream` are copies of the ensemble
    and the stream that have only the inputs in `request`. They are needed because perf_analyzer
    puts every input of a model into shared memory, and some optional inputs exclude each other.
    Raises ServerFailed if there is no such variant.
    """
    for model in repository.glob(f"{name}*"):
        if model.name == name or model.name.startswith(f"{name}."):
            (folder / model.name).symlink_to(model.resolve())
    for original, copy in ((name, NARROW), (f"{name}.stream", NARROW_STREAM)):
        config = _config(repository, original)
        config.name = f"{name}.{copy}"
        absent = {tensor.name for tensor in config.input} - request.keys()
        inputs = [tensor for tensor in config.input if tensor.name not in absent]
        del config.input[:]
        config.input.extend(inputs)
        if config.HasField("ensemble_scheduling"):
            # The server would take the copy for a variant and request a volume from it at startup.
            del config.parameters["variant"]
            for step in config.ensemble_scheduling.step:
                for tensor, source in list(step.input_map.items()):
                    if source in absent:
                        del step.input_map[tensor]
        version = folder / config.name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(text_format.MessageToString(config))


def write_stand_in(folder: Path, config: Any, code: str) -> None:
    """Write a model that has the tensors of a network's `config` and runs the Python `code`."""
    config.backend, config.default_model_filename = "python", ""
    config.ClearField("optimization")
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(code)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


def inputs(facts: Mapping[str, Any], size: tuple[int, int, int], steps: int) -> dict[str, Any]:
    """Return a request for `--input-data` of perf_analyzer, with a fixed seed.

    The request has the example's mask at `size` or, for a variant without masks, the size. Raises
    ServerFailed if the variant has none of the example's labels.
    """
    request: dict[str, Any] = {
        "seed": {"content": [_SEED], "shape": [1]},
        "steps": {"content": [steps], "shape": [1]},
    }
    if not facts["masks"]:
        return request | {"size": {"content": list(size), "shape": [3]}}
    labels = example_labels(size)
    is_known = np.array([str(label) in facts["labels"] for label in range(256)])
    labels[~is_known[labels]] = 0
    if not labels.any():
        raise ServerFailed(f"{facts['name']} has none of the labels in {MASK.name}.")
    content = {"b64": base64.b64encode(labels.tobytes()).decode()}
    return request | {"mask": {"content": content, "shape": list(size)}}


def example_labels(size: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return the example's labels, uint8 `[X, Y, Z]`, resampled to `size` by nearest neighbour."""
    image = nib.as_closest_canonical(nib.load(MASK))
    labels = np.asarray(image.dataobj).astype(np.uint8)
    indices = [
        ((np.arange(count) + 0.5) * length / count).astype(np.intp)
        for count, length in zip(size, labels.shape, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*indices)])


def picture(size: tuple[int, int, int], kind: npt.DTypeLike = np.uint8) -> nib.Nifti1Image:
    """Return the example's labels at `size` as an image of dtype `kind` with a spacing of 2 mm.

    It is a mask or, with another dtype, a source whose grey levels are the labels.
    """
    return nib.Nifti1Image(example_labels(size).astype(kind), np.diag([2.0, 2.0, 2.0, 1.0]))


def ensemble(url: str, request: Mapping[str, Any], seconds: float) -> npt.NDArray[np.int16]:
    """Request a volume of mini with tritonclient; return the image, int16 `[X, Y, Z]`.

    `request` has the arguments of our client; its images must be in RAS+. Raises
    InferenceServerException if the server refuses the request or takes more than `seconds`.
    """
    arrays = {"spacing": np.full(3, request["spacing"], np.float32)}
    for name, kind in _KINDS.items():
        if name in request:
            arrays[name] = np.atleast_1d(np.array(request[name], kind))
    for name in request.keys() & {"mask", "source"}:
        arrays[name] = np.asarray(request[name].dataobj)
    with grpc.InferenceServerClient(url) as client:
        result = client.infer("mini", infer_inputs(arrays), client_timeout=seconds)
    image: npt.NDArray[np.int16] = result.as_numpy("image")
    return image


def stream(url: str, variant: str, arrays: Mapping[str, Any], seconds: float) -> Any:
    """Request a volume of a variant's stream with tritonclient; return the result with the image.

    Raises InferenceServerException if the server refuses the request. Raises queue.Empty after
    `seconds` without progress.
    """
    results: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: results.put(error or result))
        client.async_stream_infer(f"{variant}.stream", infer_inputs(arrays))
        while True:
            result = results.get(timeout=seconds)
            if isinstance(result, grpc.InferenceServerException):
                raise result
            if result.as_numpy("image") is not None:
                return result
