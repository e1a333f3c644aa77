"""The models of a variant: they answer Triton's requests, and convert each error to one sentence.

The parameters of each model in config.pbtxt are its `role` (condition, sampler, decoder or stream)
and the JSON `variant` with the limits of a request. `<variant>.stream` does the work of the
ensemble of the other three, and also reports progress.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import secrets
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).parents[2]))  # Triton loads this file by itself

from backends.engines import guard
from backends.maisi import stopping, stream, tracing
from backends.maisi.ensemble import STAGES, Tensors
from backends.maisi.errors import (
    Cancelled,
    InvalidRequest,
    Overloaded,
    RequestError,
    Stopping,
    render,
)
from backends.maisi.forecast import Pace
from backends.maisi.gate import WAITING, Gate
from backends.maisi.inner_models import InnerModels, log, log_hint, named_tensor, overloaded
from backends.maisi.inputs import Variant, flag
from backends.maisi.metrics import Metrics
from backends.maisi.request_steps import text_bytes

_INTERVAL = 1.0  # seconds between two messages of a request that waits
_ARENA_MAX = -8  # mallopt's M_ARENA_MAX, glibc's malloc.h
_OUTCOMES = {  # the outcome in the metrics for each error code
    "INVALID_ARG": "invalid",
    "UNAVAILABLE": "unavailable",
    "CANCELLED": "cancelled",
    "INTERNAL": "failed",
}


class TritonPythonModel:
    """One model of a variant, by its role."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the role and the variant.

        Raises TritonModelException for an unknown role, or a variant that is not JSON.
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
            token = guard.token()
            self.probe_id = guard.probe_id()  # the id of requests that no metric counts
        except ValueError as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None
        if self.role == "stream":  # glibc would keep the memory of an arena for each thread
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
        tracing.start()
        self.pace = Pace()
        self.metrics = Metrics(self.variant["name"], args["model_name"])
        self.inner_models = InnerModels(
            self.variant["name"], self.role, self.metrics, token, self.probe_id
        )
        waiting: int = self.variant["limits"]["waiting"][1]
        # The number of devices with networks.
        devices = parameters.get("devices", {"string_value": "1"})
        self.gate = Gate(waiting, self.metrics.set_queue, int(devices["string_value"]))
        self.checks = threading.BoundedSemaphore(waiting)  # checks do not use the gate

    def finalize(self) -> None:
        """End the model when Triton unloads it."""
        tracing.stop()

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer each request; a stream answers in a thread per request, by the request's sender.

        If the process of a stream dies, Triton does not end its requests, so the supervisor
        restarts Triton.
        """
        if self.role == "stream":
            for request in requests:
                self._start_stream(request)
            return None
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        """Return the response of a stage of the ensemble."""
        request_id = _request_id(request)
        try:
            if self.role == "condition":
                stopping.check_not_stopping()
            counted = nullcontext() if request_id == self.probe_id else self.metrics.running()
            with counted, tracing.continued(request):
                run_model = functools.partial(self.inner_models.call, request_id)
                outputs = STAGES[self.role](self.variant, _inputs(request), run_model)
            if self.role == "decoder":
                outputs = self._finished(request, request_id, outputs)
            return pb_utils.InferenceResponse([named_tensor(*item) for item in outputs.items()])
        except Exception as error:
            return pb_utils.InferenceResponse(error=self._error(request_id, error))

    def _start_stream(self, request: Any) -> None:
        """Answer a request in a new thread, or refuse it without a thread."""
        try:
            stopping.check_not_stopping()
            flags = {t.name(): t.as_numpy() for t in request.inputs() if t.name() == "check"}
            if check := flag(flags, "check"):
                if not self.checks.acquire(blocking=False):
                    raise overloaded("the limit of concurrent checks is reached")
            else:
                self.gate.check_capacity()
        except (Stopping, Overloaded, InvalidRequest) as error:
            self._fail(request.get_response_sender(), _request_id(request), error)
        else:
            work = self._check if check else self._stream
            threading.Thread(target=work, args=(request,), daemon=True).start()

    def _check(self, request: Any) -> None:
        try:
            self._stream(request)
        finally:
            self.checks.release()

    def _stream(self, request: Any) -> None:
        sender, request_id = request.get_response_sender(), _request_id(request)

        last_waiting = -math.inf

        def send(stage: str, progress: float, **outputs: Any) -> None:
            nonlocal last_waiting
            if request.is_cancelled():
                raise Cancelled
            if stage != WAITING:
                self.metrics.mark_progress()
            elif time.monotonic() - last_waiting < _INTERVAL:
                return
            else:
                last_waiting = time.monotonic()
            if "report" in outputs:
                outputs = self._finished(request, request_id, outputs)
            outputs = {
                "stage": text_bytes(stage),
                "progress": np.array([progress], np.float32),
            } | outputs
            tensors = [named_tensor(*item) for item in outputs.items()]
            sender.send(pb_utils.InferenceResponse(tensors))

        try:
            run_model = functools.partial(self.inner_models.call, request_id)
            prepare = functools.partial(self.inner_models.prepare, request_id)
            time_limit = self._time_limit(request)
            inputs = _inputs(request)
            # The span of Triton ends when `execute` returns.
            with tracing.continued(request), tracing.span("request", request_id=request_id):
                stream.run(
                    self.variant,
                    inputs,
                    run_model,
                    prepare,
                    send,
                    self.pace,
                    self.gate,
                    time_limit,
                )
        except Exception as error:
            self._fail(sender, request_id, error)
        else:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _fail(self, sender: Any, request_id: str, error: Exception) -> None:
        """End a stream by one message, because an end after an error can crash Triton 2.51."""
        sender.send(
            pb_utils.InferenceResponse(error=self._error(request_id, error)),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        )

    def _time_limit(self, request: Any) -> float:
        """Return the time limit of a request in s: its timeout, but at most the variant's limit."""
        longest: float = self.variant["limits"]["seconds"][1]
        return min(request.timeout() / 1e6 or longest, longest)

    def _finished(
        self, request: Any, request_id: str, outputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Count a request that is done, and put its ids into the report among its outputs."""
        report = json.loads(outputs["report"].tobytes())
        if request_id != self.probe_id:
            self.metrics.count_request("done")
            if "image" in outputs:  # a check and a mask alone have none
                self.metrics.count_volume(report)
        caller = tracing.caller(request)
        ids = {"request_id": request_id, **({"trace_id": caller.trace_id} if caller else {})}
        return {**outputs, "report": text_bytes(json.dumps(ids | report))}

    def _error(self, request_id: str, error: Exception) -> Any:
        """Count an error and return it as a Triton error."""
        if not isinstance(error, RequestError):
            log(request_id, f"{self.role}: {type(error).__name__}: {error}")
            sentence = f"{self.role}: failed with {type(error).__name__}; {log_hint(request_id)}"
            error = RequestError(sentence)
        if request_id != self.probe_id:
            self.metrics.count_request(_OUTCOMES[error.code])
        return pb_utils.TritonError(render(error), getattr(pb_utils.TritonError, error.code))


def _request_id(request: Any) -> str:
    """Return the caller's id of the request, or a random one."""
    return request.request_id() or secrets.token_hex(6)


def _inputs(request: Any) -> Tensors:
    return {tensor.name(): tensor for tensor in request.inputs()}
