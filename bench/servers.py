"""What a load test needs of a server: one of its own, endpoints that fit, inputs, statistics."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc
from google.protobuf import text_format  # type: ignore[import-untyped]
from maisi_client._transport.channel import to_triton
from tritonclient.grpc import model_config_pb2 as pb

ROOT = Path(__file__).resolve().parents[1]
MASK = ROOT / "examples" / "brain_mask.nii.gz"
NARROW, NARROW_STREAM = "loadtest", "loadtest_stream"
_SEED = 7
_KINDS = {"steps": np.int32, "seed": np.int64, "size": np.int32, "strength": np.float32}


class ServerFailed(RuntimeError):
    """The server did not start, does not answer or has no such model; one sentence."""


@dataclass(frozen=True)
class Counts:
    """What a model has done since it was loaded: requests answered and failed, nanoseconds."""

    answered: int
    failed: int
    total_ns: int
    queue_ns: int

    def since(self, before: Counts) -> Counts:
        """Return what was added after `before`."""
        return Counts(
            self.answered - before.answered,
            self.failed - before.failed,
            self.total_ns - before.total_ns,
            self.queue_ns - before.queue_ns,
        )


NOTHING = Counts(0, 0, 0, 0)


@dataclass(frozen=True)
class Server:
    """A running server: where its gRPC is, tritonclient's connection to it, its operator's key.

    Of a server of our own `http`, `metrics` and `status` are known, where its other endpoints are,
    and the supervisor's `pid`.
    """

    url: str
    client: Any
    key: str = ""
    http: str = ""
    metrics: str = ""
    status: str = ""
    pid: int = 0

    def statistics(self) -> dict[str, Counts]:
        """Read Triton's own statistics of every model."""
        return {
            model.name: Counts(
                model.inference_stats.success.count,
                model.inference_stats.fail.count,
                model.inference_stats.success.ns,
                model.inference_stats.queue.ns,
            )
            for model in self.client.get_inference_statistics(client_timeout=30).model_stats
        }

    def variant(self, name: str) -> dict[str, Any]:
        """Read what a variant says of itself (labels and more), and whether it takes `mask`."""
        return _facts(self.client.get_model_config(name, client_timeout=30).config, self.url)


@contextmanager
def connected(url: str, key: str = "") -> Iterator[Server]:
    """Talk to a server; whatever it refuses within becomes ServerFailed."""
    client = grpc.InferenceServerClient(url)
    try:
        yield Server(url, client, key)
    except grpc.InferenceServerException as error:
        said = (error.message() or "no reason given").strip().rstrip(".")
        raise ServerFailed(f"The server at {url} did not answer: {said}.") from None
    finally:
        client.close()


def variant_in(repository: Path, name: str) -> dict[str, Any]:
    """Read what `Server.variant` does in a model repository."""
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
def serving(
    repository: Path, name: str, log: Path, keyed: bool = True, under: Sequence[str] = ()
) -> Iterator[Server]:
    """Serve one variant of `repository` on free ports.

    `keyed`: with an operator's key, and so without the shared memory that clients find by
    themselves. `under`: the beginning of a command that becomes the server, such as `env`. On
    leaving, running requests finish and the server stops. Raises ServerFailed.
    """
    ports = [f"--{service}-port=0" for service in ("grpc", "http", "metrics", "status")]
    words = [sys.executable, "-m", "server", f"--repository={repository}", f"--models={name}"]
    key, key_file = secrets.token_hex(16) if keyed else "", log.with_suffix(".key")
    if keyed:
        key_file.write_text(key)
        words.append(f"--key-file={key_file}")  # for shared memory
    with log.open("w") as err:
        process = subprocess.Popen(
            [*under, *words, *ports],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who tell it when to stop
        )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        if not ready.startswith("ready: grpc="):
            lines = [line for line in log.read_text().splitlines() if line.startswith("serve: ")]
            why = lines[-1].removeprefix("serve: ") if lines else f"its log {log} says why."
            raise ServerFailed(f"The server did not start: {why}")
        told = dict(word.split("=", 1) for word in ready.split()[1:])
        places = {name: told[name] for name in ("http", "metrics", "status")}
        with connected(told["grpc"], key) as server:
            yield replace(server, pid=process.pid, **places)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
        key_file.unlink(missing_ok=True)


def add_narrow_endpoints(
    repository: Path, name: str, sent: Mapping[str, Any], folder: Path
) -> None:
    """Fill the empty `folder` with `repository`'s models of a variant and two narrowed endpoints.

    Those, `<variant>.loadtest` and `<variant>.loadtest_stream`, are the ensemble and the stream
    without the inputs that are not `sent`: perf_analyzer wants to put every input of a model into
    shared memory, and the optional ones exclude each other.
    Raises ServerFailed when there is no such variant.
    """
    for model in repository.glob(f"{name}*"):
        if model.name == name or model.name.startswith(f"{name}."):
            (folder / model.name).symlink_to(model.resolve())
    for original, copy in ((name, NARROW), (f"{name}.stream", NARROW_STREAM)):
        config = _config(repository, original)
        config.name = f"{name}.{copy}"
        dropped = {tensor.name for tensor in config.input} - sent.keys()
        kept = [tensor for tensor in config.input if tensor.name not in dropped]
        del config.input[:]
        config.input.extend(kept)
        if config.HasField("ensemble_scheduling"):
            # Ensembles with it are variants, which the server asks for a volume at its start.
            del config.parameters["variant"]
            for step in config.ensemble_scheduling.step:
                for tensor, source in list(step.input_map.items()):
                    if source in dropped:
                        del step.input_map[tensor]
        version = folder / config.name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(text_format.MessageToString(config))


def inputs(facts: Mapping[str, Any], size: tuple[int, int, int], steps: int) -> dict[str, Any]:
    """Return one request as perf_analyzer reads it: the example's mask at `size`, a fixed seed.

    A variant that takes no mask gets the size alone. Raises ServerFailed when it knows none of
    the example's labels.
    """
    request: dict[str, Any] = {
        "seed": {"content": [_SEED], "shape": [1]},
        "steps": {"content": [steps], "shape": [1]},
    }
    if not facts["masks"]:
        return request | {"size": {"content": list(size), "shape": [3]}}
    labels = example(size)
    known = np.array([str(label) in facts["labels"] for label in range(256)])
    labels[~known[labels]] = 0
    if not labels.any():
        raise ServerFailed(f"{facts['name']} knows none of the labels in {MASK.name}.")
    content = {"b64": base64.b64encode(labels.tobytes()).decode()}
    return request | {"mask": {"content": content, "shape": list(size)}}


def example(size: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return the example's labels [X, Y, Z], the whole head, at `size` by nearest neighbour."""
    image = nib.as_closest_canonical(nib.load(MASK))
    labels = np.asarray(image.dataobj).astype(np.uint8)
    at = [
        ((np.arange(count) + 0.5) * of / count).astype(np.intp)
        for count, of in zip(size, labels.shape, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*at)])


def picture(size: tuple[int, int, int], kind: npt.DTypeLike = np.uint8) -> nib.Nifti1Image:
    """Return the example's labels as an image of 2 mm, or a source of such grey levels."""
    return nib.Nifti1Image(example(size).astype(kind), np.diag([2.0, 2.0, 2.0, 1.0]))


def ensemble(url: str, asked: Mapping[str, Any], seconds: float) -> npt.NDArray[np.int16]:
    """Ask mini as any KServe client does, for at most so many seconds; return the image [X, Y, Z].

    `asked` is as our client takes it; images have to lie as the server sees them.
    """
    tensors = {"spacing": np.full(3, asked["spacing"], np.float32)}
    for name, kind in _KINDS.items():
        if name in asked:
            tensors[name] = np.atleast_1d(np.array(asked[name], kind))
    for name in asked.keys() & {"mask", "source"}:
        tensors[name] = np.asarray(asked[name].dataobj)
    with grpc.InferenceServerClient(url) as client:
        result = client.infer("mini", to_triton(tensors), client_timeout=seconds)
    image: npt.NDArray[np.int16] = result.as_numpy("image")
    return image
