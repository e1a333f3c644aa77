"""The models of a variant: Triton's tensors in and out, and every failure as one sentence.

config.pbtxt gives each model its `role` (condition, sampler, decoder or stream) and the JSON
`variant` that says what may be asked. `<variant>.stream` does the same as the ensemble of the other
three, and tells how far it is.
"""

from __future__ import annotations

import ctypes
import functools
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).parents[2]))  # Triton loads this file by itself

from backends.engines import cuda, guard
from backends.maisi import stopping, stream
from backends.maisi.decoder import NOT_FINITE
from backends.maisi.ensemble import STAGES, Tensors
from backends.maisi.errors import (
    Cancelled,
    EngineFailed,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    RequestError,
    Stopping,
    TimeUp,
    render,
)
from backends.maisi.forecast import Pace
from backends.maisi.gate import Gate
from backends.maisi.inputs import Variant, flag
from backends.maisi.metrics import Metrics
from backends.maisi.preparation import as_text
from backends.maisi.progress import WAITING

_READ = ("vae_decoder", "vae_encoder", "mask_decoder")
_MEMORY = re.compile(r"out of memory: .*; try again in (\d+) s")  # as backends/engines/memory.py
# What Triton 2.51 says of a model that the supervisor is about to load again, and where there is no
# room in /dev/shm.
_PASSING = {
    "is not healthy": "died and is loaded again",
    "is not ready": "is being loaded again",
    "has no available versions": "is being loaded again",
    "shared memory": "has no room in shared memory",
    "a file of activations": "has no room for activations on the disk",
}
_QUEUE_FULL = "maximum queue size"  # as Triton 2.51 says it
_QUEUE_PAUSE = 0.002  # seconds until a full queue is tried again
_AGAIN = 3  # seconds until a caller is to try again
_ARENA_MAX = -8  # mallopt's M_ARENA_MAX, glibc's malloc.h
# What an error is counted as, by its code.
_OUTCOMES = {
    "INVALID_ARG": "invalid",
    "UNAVAILABLE": "unavailable",
    "CANCELLED": "cancelled",
    "INTERNAL": "failed",
}
_FLOWS = ("flow", "flow_masked", "mask_flow")


class TritonPythonModel:
    """One model of a variant, as its role says."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the role and the variant.

        Raises TritonModelException for a role that is not known or a variant that is no JSON.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        try:
            self.role = parameters["role"]["string_value"]
            self.variant: Variant = json.loads(parameters["variant"]["string_value"])
        except (KeyError, ValueError) as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: parameters `role` and `variant` (JSON) are needed"
            ) from error
        roles = (*STAGES, "stream")
        if self.role not in roles:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: role {self.role!r} is not one of {', '.join(roles)}"
            )
        try:
            self.token = guard.token()
            self.probe_id = guard.probe_id()  # of requests that count as nobody's
        except ValueError as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None
        if self.role == "stream":  # whose threads would have arenas, which keep what they had
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
        self.pace = Pace()
        self.metrics = Metrics(self.variant["name"], args["model_name"])
        waiting: int = self.variant["limits"]["waiting"][1]
        devices = parameters.get("devices", {"string_value": "1"})  # that networks are placed on
        self.gate = Gate(waiting, self.metrics.queue, int(devices["string_value"]))
        self.checks = threading.BoundedSemaphore(waiting)  # at once, beside the gate

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer each request; a stream answers in threads, each through its request's own sender.

        Should this process die, Triton tells nobody whose stream it was: the supervisor does, which
        starts Triton again.
        """
        if self.role == "stream":
            for request in requests:
                self._take(request)
            return None
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        known = _id(request)
        try:
            if self.role == "condition":
                stopping.admit()
            with nullcontext() if known == self.probe_id else self.metrics.running():
                engine = functools.partial(self._engine, self._wanted(request), known)
                outputs = STAGES[self.role](self.variant, _inputs(request), engine)
            if self.role == "decoder":
                outputs = self._made(known, outputs)
            return pb_utils.InferenceResponse([_tensor(*item) for item in outputs.items()])
        except Exception as error:
            return pb_utils.InferenceResponse(error=self._error(known, error))

    def _take(self, request: Any) -> None:
        """Give a request a thread, or refuse it without: a crowd's threads wait for each other."""
        try:
            stopping.admit()
            sent = {t.name(): t.as_numpy() for t in request.inputs() if t.name() == "check"}
            if check := flag(sent, "check"):
                if not self.checks.acquire(blocking=False):
                    raise _overloaded("as many checks as may be are here")
            else:
                self.gate.look()
        except (Stopping, Overloaded, InvalidRequest) as error:
            self._fail(request.get_response_sender(), _id(request), error)
        else:
            work = self._checked if check else self._stream
            threading.Thread(target=work, args=(request,), daemon=True).start()

    def _checked(self, request: Any) -> None:
        try:
            self._stream(request)
        finally:
            self.checks.release()

    def _stream(self, request: Any) -> None:
        sender, known = request.get_response_sender(), _id(request)

        def send(stage: str, progress: float, **outputs: Any) -> None:
            if request.is_cancelled():
                raise Cancelled
            if stage != WAITING:
                self.metrics.progress()
            if "report" in outputs:
                outputs = self._made(known, outputs)
            outputs = {
                "stage": as_text(stage),
                "progress": np.array([progress], np.float32),
            } | outputs
            sender.send(pb_utils.InferenceResponse([_tensor(*item) for item in outputs.items()]))

        try:
            engine = functools.partial(self._engine, self._wanted(request), known)
            seconds = self._seconds(request)
            stream.run(self.variant, _inputs(request), engine, send, self.pace, self.gate, seconds)
        except Exception as error:
            self._fail(sender, known, error)
        else:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _fail(self, sender: Any, known: str, error: Exception) -> None:
        """End a stream in one message: a lone end after an error can crash Triton 2.51."""
        sender.send(
            pb_utils.InferenceResponse(error=self._error(known, error)),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        )

    def _seconds(self, request: Any) -> float:
        """Return how long a request may take: what the caller says, within the limit."""
        longest: float = self.variant["limits"]["seconds"][1]
        return min(request.timeout() / 1e6 or longest, longest)

    def _wanted(self, request: Any) -> Callable[[], None]:
        """Return what raises where a request's answer is no longer wanted, or came too late.

        Its time begins now.
        """
        seconds = self._seconds(request)
        end = time.monotonic() + seconds

        def check() -> None:
            if request.is_cancelled():
                raise Cancelled
            if time.monotonic() > end:
                raise TimeUp(f"the request was not done within its {seconds:g} s")
            stopping.check_deadline()

        return check

    def _made(self, known: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Count what was made and put the request's id into its report.

        An answer without an image made none.
        """
        report = json.loads(outputs["report"].tobytes())
        if known != self.probe_id:
            self.metrics.ended("done")
            if "image" in outputs:
                self.metrics.volume(report)
        return {**outputs, "report": as_text(json.dumps({"request_id": known, **report}))}

    def _engine(
        self,
        check: Callable[[], None],
        known: str,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
    ) -> list[Any]:
        """Call a model of this variant within the server; `check` raises where that is not wanted.

        What it gives stays where it is, on a GPU perhaps, for the next model; but for what is read
        here, `_READ`, or where models cannot share memory of a GPU.
        """
        if model in _FLOWS and known != self.probe_id:
            self.metrics.step()
        place = (
            {"preferred_memory": pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)}
            if model in _READ or not cuda.gpu_tensors()
            else {}
        )
        tensors = [_tensor(*item) for item in inputs.items()]
        while True:
            response = pb_utils.InferenceRequest(
                model_name=f"{self.variant['name']}.{model}",
                requested_output_names=list(outputs),
                inputs=tensors,
                request_id=known,
                parameters={guard.PARAMETER: self.token},
                **place,
            ).exec()
            # Others than the stages can fill a network's queue, behind a long run, too.
            if not (response.has_error() and _QUEUE_FULL in response.error().message()):
                break
            check()
            time.sleep(_QUEUE_PAUSE)
        if response.has_error():
            error = response.error()
            if guard.NOT_FINITE in error.message():  # Triton 2.51 hands no codes on
                raise InvalidRequest(NOT_FINITE)
            _log(known, f"{self.role}: {model}: {error.message()}")
            if (full := _MEMORY.search(error.message())) is not None:
                raise OutOfMemory(f"overloaded: {model}: {full[0]}", int(full[1]))
            for sign, reason in _PASSING.items():
                if sign in error.message():
                    raise _overloaded(f"{model} {reason}; {_where(known)}")
            raise EngineFailed(f"{self.role}: the model {model} failed; {_where(known)}")
        return [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]

    def _error(self, known: str, error: Exception) -> Any:
        if not isinstance(error, RequestError):
            _log(known, f"{self.role}: {type(error).__name__}: {error}")
            sentence = f"{self.role}: failed with {type(error).__name__}; {_where(known)}"
            error = RequestError(sentence)
        if known != self.probe_id:
            self.metrics.ended(_OUTCOMES[error.code])
        return pb_utils.TritonError(render(error), getattr(pb_utils.TritonError, error.code))


def _overloaded(why: str) -> Overloaded:
    return Overloaded(f"overloaded: {why}; try again in {_AGAIN} s", _AGAIN)


def _id(request: Any) -> str:
    """Return the caller's name for the request, or one of ours."""
    return request.request_id() or secrets.token_hex(6)


def _log(known: str, text: str) -> None:
    pb_utils.Logger.log_error(f"request '{known}': {text}")


def _where(known: str) -> str:
    return f"the server's log says why, at request '{known}'"


def _inputs(request: Any) -> Tensors:
    return {tensor.name(): tensor for tensor in request.inputs()}


def _tensor(name: str, value: Any) -> Any:
    """Name a value for Triton: an array, or a tensor, which is not copied.

    A tensor that has the name goes as it is: Triton puts it into shared memory once for all calls.
    """
    if isinstance(value, np.ndarray):
        return pb_utils.Tensor(name, np.ascontiguousarray(value))
    if value.name() == name:
        return value
    return pb_utils.Tensor.from_dlpack(name, value.to_dlpack())
