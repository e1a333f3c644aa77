"""Transfer large volumes to and from a server on this machine by shared memory instead of gRPC.

A server that allows shared memory writes a key to /dev/shm that only its own user can read. If any
requirement is not met, all tensors are sent by gRPC.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import secrets
import threading
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from .._errors import printable
from . import channel, dev_shm
from .address import is_loopback
from .pool import PooledServer
from .tls import Tls

# Least bytes of the volumes in request and answer (docs/reference/benchmarks.md, Transfer).
THRESHOLD = 8 << 20
_KEY = "triton-grpc-protocol-maisi-control"
_REST_SECONDS = 60.0  # until the next try after a server refused shared memory
_CALL_SECONDS = 5.0
_ENDING_SECONDS = 0.2  # that Triton has to release the memory after the final message
_log = logging.getLogger("maisi_client")


class Region:
    """The tensors of a request to `server`; `open` puts volumes into shared memory if possible.

    If the server still uses the file at `close`, for example after a cancellation, the server
    removes the file later: it removes files that it no longer uses and that are not locked. Both
    calls block.
    """

    def __init__(
        self,
        server: PooledServer[Any],
        tls: Tls | None,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
    ) -> None:
        self.model = model
        self.answer_bytes = channel.answer_bytes(inputs)
        self._server, self._tls, self._inputs = server, tls, inputs
        self._name = f"{dev_shm.PREFIX}{secrets.token_hex(8)}"
        self._offsets, self._size = dev_shm.offsets(inputs)
        self._lock = threading.Lock()  # `close` may run while a cancelled `open` still runs
        self._closed = False
        self._file: int | None = None
        self._memory: mmap.mmap | None = None  # set when it is registered with the server
        self._headers: dict[str, str] = {}
        self._outputs: list[str] = []

    @property
    def worth_it(self) -> bool:
        """Whether `open` is useful: large volumes, a local server, and no recent refusal."""
        large = self._size >= THRESHOLD and is_loopback(self._server.url)
        return large and time.monotonic() >= self._server.far_until

    def open(self) -> None:
        """Write the volumes to shared memory and register it; if that fails, gRPC is used."""
        with self._lock:
            if self._closed:
                return
            try:
                self._headers[_KEY] = dev_shm.key(self._server.url)
                memory, limit = self._fill(), {"client_timeout": _CALL_SECONDS}
                with channel.connect(self._server.url, self._tls) as client:
                    config = client.get_model_config(self.model, **limit).config
                    self._outputs = [tensor.name for tensor in config.output]
                    words = (self._name, f"/{self._name}", self._size)
                    client.register_system_shared_memory(*words, headers=self._headers, **limit)
                self._memory = memory
            except (OSError, InferenceServerException) as error:
                reason = printable(str(error))
                _log.debug("no shared memory with %s: %s", self._server.url, reason)
                self._server.far_until = time.monotonic() + _REST_SECONDS

    def close(self) -> None:
        """Release the shared memory, if there is any."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                if self._memory is None or self._unregister():
                    (dev_shm.SHM / self._name).unlink(missing_ok=True)
                os.close(self._file)  # releases the lock
            self._file = self._memory = None

    def tensors(self) -> list[Any]:
        """Return the inputs for tritonclient."""
        shared = self._offsets.keys() & self._inputs.keys() if self._memory is not None else set()
        by_grpc = {name: self._inputs[name] for name in self._inputs.keys() - shared}
        tensors = channel.to_triton(by_grpc)
        for name in shared:
            value = self._inputs[name]
            tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            tensors.append(tensor.set_shared_memory(self._name, value.nbytes, self._offsets[name]))
        return tensors

    def outputs(self) -> list[Any] | None:
        """Return the outputs to request, or None for all; shared memory needs their names."""
        if self._memory is None or "image" not in self._offsets:
            return None
        outputs = {name: triton.InferRequestedOutput(name) for name in self._outputs}
        offset = self._offsets["image"]  # the last volume
        outputs["image"].set_shared_memory(self._name, self._size - offset, offset)
        return list(outputs.values())

    def read(self, result: Any) -> Any:
        """Return a message whose `as_numpy` reads the image from shared memory if it is there."""
        output, memory = result.get_output("image"), self._memory
        if memory is None or "image" not in self._offsets or output is None:
            return result
        shape = tuple(output.shape)

        def as_numpy(name: str) -> Any:
            if name != "image":
                return result.as_numpy(name)
            # The shape comes from the server; if it exceeds this memory, numpy raises ValueError.
            image = np.frombuffer(memory, np.int16, math.prod(shape), self._offsets["image"])
            # Copy the image, because a view would keep the pages of /dev/shm.
            return image.reshape(shape).copy()

        return SimpleNamespace(as_numpy=as_numpy)

    def _fill(self) -> mmap.mmap:
        self._file, memory = dev_shm.create(self._name, self._size)
        for name in self._offsets.keys() & self._inputs.keys():
            value = self._inputs[name]
            buffer = np.frombuffer(memory, value.dtype, value.size, self._offsets[name])
            buffer.reshape(value.shape)[...] = value
        return memory

    def _unregister(self) -> bool:
        """Unregister the region; return False if the server still uses it."""
        end = time.monotonic() + _ENDING_SECONDS
        limit = {"headers": self._headers, "client_timeout": _CALL_SECONDS}
        with channel.connect(self._server.url, self._tls) as client:
            while True:
                try:
                    client.unregister_system_shared_memory(self._name, **limit)
                    return True
                except InferenceServerException as error:
                    if "in use" not in str(error.message()):
                        return True  # the server has stopped, or no longer has this region
                    if time.monotonic() > end:
                        return False
                    time.sleep(0.02)
