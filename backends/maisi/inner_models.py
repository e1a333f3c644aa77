"""Call a variant's networks, which are models of the same server, and convert their errors.

A tensor is a numpy array or Triton's tensor, which may be on a GPU.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ..engines import cuda, guard
from .errors import EngineFailed, InvalidRequest, OutOfMemory, Overloaded
from .metrics import Metrics

_READ = ("vae_decoder", "vae_encoder", "mask_decoder")  # networks whose outputs stages read
_NOT_FINITE = (
    "image: the networks gave NaN or infinite values; "
    "a smaller guidance or an ordinary latent avoids that"
)
_SAMPLERS = ("flow", "flow_masked")  # networks of the sampler
_FLOWS = (*_SAMPLERS, "mask_flow")
_MEMORY = re.compile(r"out of memory: .*; try again in (\d+) s")  # see backends/engines/memory.py
# Parts of transient errors of Triton 2.51 and of `slabs`, and the errors for the caller.
_TRANSIENT = {
    "is not healthy": "died and is loaded again",
    "is not ready": "is being loaded again",
    "has no available versions": "is being loaded again",
    "shared memory": "has no space in shared memory",
    "a file of activations": "has no space for activations on the disk",
}
_RETRY = 3  # seconds after which a caller is to try again


@dataclass(frozen=True)
class InnerModels:
    """The networks of a variant, for calls by the model of one `role`.

    Every call has the server's `token`. Steps of requests with the id `probe_id` are not counted in
    `metrics`. `any_shape` are the networks that do not compile for a size.
    """

    variant: str
    role: str
    metrics: Metrics
    token: str = field(repr=False)
    probe_id: str = field(repr=False)
    any_shape: set[str] = field(default_factory=set)

    def call(
        self,
        request_id: str,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
    ) -> list[Any]:
        """Return the tensors `outputs` of a network, by its short name, for `inputs`.

        The tensors stay in the network's memory, which may be that of a GPU, for the next call.
        They are copied to the CPU for networks in `_READ`, for a flow without its velocity, and if
        models cannot share memory of a GPU. Raises InvalidRequest for an image that is not finite,
        OutOfMemory, Overloaded for a transient error, and EngineFailed for any other error.
        """
        if model in _FLOWS and request_id != self.probe_id:
            self.metrics.count_step()
        # Only a sampler's last call needs no velocity. Its latent leaves the loop of calls, and an
        # ensemble loses a tensor of a GPU for which Triton's pool has no space (Triton 2.51:
        # python_be.cc copies such a tensor from pinned memory of the host for no response).
        is_last = model in _SAMPLERS and "velocity" not in outputs
        memory = (
            {"preferred_memory": pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)}
            if model in _READ or is_last or not cuda.gpu_tensors()
            else {}
        )
        response = pb_utils.InferenceRequest(
            model_name=f"{self.variant}.{model}",
            requested_output_names=list(outputs),
            inputs=[named_tensor(*item) for item in inputs.items()],
            request_id=request_id,
            parameters={guard.PARAMETER: self.token},
            **memory,
        ).exec()
        if response.has_error():
            raise self._error(request_id, model, response.error().message())
        return [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]

    def prepare(self, request_id: str, model: str, rows: int, volume: tuple[int, ...]) -> None:
        """Announce a later call to a network, which then compiles for it; do not wait.

        The call has `rows` of conditioning and tensors of a volume [X, Y, Z]. An error is ignored,
        because the call itself compiles if it has to. A network that takes any shape is not called
        again.
        """
        if model in self.any_shape:
            return
        request = pb_utils.InferenceRequest(
            model_name=f"{self.variant}.{model}",
            requested_output_names=[],
            inputs=[],
            request_id=request_id,
            parameters={
                guard.PARAMETER: self.token,
                guard.PREPARE: json.dumps({"rows": rows, "volume": volume}),
            },
        )

        def run() -> None:
            with suppress(Exception):
                response = request.exec()
                if response.has_error() and guard.ANY_SHAPE in response.error().message():
                    self.any_shape.add(model)

        with suppress(RuntimeError):  # there may be too many threads
            threading.Thread(target=run, daemon=True).start()

    def _error(self, request_id: str, model: str, message: str) -> Exception:
        """Return the caller's error for a network's error.

        The message decides, because Triton does not keep the code.
        """
        if guard.NOT_FINITE in message:
            return InvalidRequest(_NOT_FINITE)
        log(request_id, f"{self.role}: {model}: {message}")
        if (full := _MEMORY.search(message)) is not None:
            return OutOfMemory(f"overloaded: {model}: {full[0]}", int(full[1]))
        for part, reason in _TRANSIENT.items():
            if part in message:
                return overloaded(f"{model} {reason}; {log_hint(request_id)}")
        return EngineFailed(f"{self.role}: the model {model} failed; {log_hint(request_id)}")


def overloaded(reason: str) -> Overloaded:
    """Return the error for a state that lasts only seconds."""
    return Overloaded(f"overloaded: {reason}; try again in {_RETRY} s", _RETRY)


def log(request_id: str, text: str) -> None:
    """Write an error of a request to the server's log."""
    pb_utils.Logger.log_error(f"request '{request_id}': {text}")


def log_hint(request_id: str) -> str:
    """Return the part of a sentence that refers to the server's log."""
    return f"the server's log says why, at request '{request_id}'"


def named_tensor(name: str, value: Any) -> Any:
    """Return an array or a tensor as Triton's tensor of this name; a tensor is not copied.

    A tensor that already has the name is returned unchanged, because Triton then puts it into
    shared memory only once for all calls.
    """
    if isinstance(value, np.ndarray):
        return pb_utils.Tensor(name, np.ascontiguousarray(value))
    if value.name() == name:
        return value
    return pb_utils.Tensor.from_dlpack(name, value.to_dlpack())
