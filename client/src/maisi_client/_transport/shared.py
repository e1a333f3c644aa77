"""Large volumes to and from a server on this machine: through shared memory, not by gRPC.

A server that allows it leaves a key in /dev/shm that its own user can read. Whatever is missing,
the tensors travel as ever.
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
from . import channel, near
from .address import is_loopback
from .pool import Server
from .tls import Tls

THRESHOLD = 8 << 20  # bytes of a request's volumes, the answer's too; docs/benchmarks.md, Transfer
_KEY = "triton-grpc-protocol-maisi-control"
_REST_SECONDS = 60.0  # of a server that would not
_CALL_SECONDS = 5.0
_ENDING_SECONDS = 0.2  # from a request's last message until Triton surely lets go of its memory
_log = logging.getLogger("maisi_client")


class Region:
    """The tensors of one request to `server`: volumes in shared memory once it is open, or not.

    `close` leaves what the server still uses, as after a request was cancelled, to the server: when
    it has let go of a file, it removes it if nobody holds its lock. Both calls block.
    """

    def __init__(
        self, server: Server[Any], tls: Tls | None, model: str, inputs: Mapping[str, NDArray[Any]]
    ) -> None:
        self.model = model
        self.answer_bytes = channel.answer_bytes(inputs)
        self._server, self._tls, self._inputs = server, tls, inputs
        self._name = f"{near.PREFIX}{secrets.token_hex(8)}"
        self._at, self._size = near.places(inputs)
        self._lock = threading.Lock()  # of an `open` that nobody waits for any more
        self._closed = False
        self._file: int | None = None
        self._memory: mmap.mmap | None = None  # there once the server knows it
        self._headers: dict[str, str] = {}
        self._outputs: list[str] = []

    @property
    def worth_it(self) -> bool:
        """Whether to open: the volumes are large, the server is near and did not refuse lately."""
        large = self._size >= THRESHOLD and is_loopback(self._server.url)
        return large and time.monotonic() >= self._server.far_until

    def open(self) -> None:
        """Put the volumes into shared memory that the server knows; or else leave all as it is."""
        with self._lock:
            if self._closed:
                return
            try:
                self._headers[_KEY] = near.key(self._server.url)
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
        """Forget the shared memory, if it is there."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                if self._memory is None or self._unregister():
                    (near.SHM / self._name).unlink(missing_ok=True)
                os.close(self._file)  # with it goes the lock
            self._file = self._memory = None

    def tensors(self) -> list[Any]:
        """Return the inputs as tritonclient has them."""
        placed = self._at.keys() & self._inputs.keys() if self._memory is not None else set()
        travel = {name: self._inputs[name] for name in self._inputs.keys() - placed}
        tensors = channel.to_triton(travel)
        for name in placed:
            value = self._inputs[name]
            tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            tensors.append(tensor.set_shared_memory(self._name, value.nbytes, self._at[name]))
        return tensors

    def outputs(self) -> list[Any] | None:
        """Return what is asked for, None: everything; an output can be placed only by name."""
        if self._memory is None or "image" not in self._at:
            return None
        asked = {name: triton.InferRequestedOutput(name) for name in self._outputs}
        at = self._at["image"]  # the last
        asked["image"].set_shared_memory(self._name, self._size - at, at)
        return list(asked.values())

    def read(self, result: Any) -> Any:
        """Return a part of the answer so that it finds the image, wherever that is."""
        output, memory = result.get_output("image"), self._memory
        if memory is None or "image" not in self._at or output is None:
            return result
        sides = tuple(output.shape)

        def as_numpy(name: str) -> Any:
            if name != "image":
                return result.as_numpy(name)
            # A server may say any sides; what is no place in this memory is a ValueError.
            image = np.frombuffer(memory, np.int16, math.prod(sides), self._at["image"])
            # A copy: its pages would be missing in /dev/shm as long as the volume lives.
            return image.reshape(sides).copy()

        return SimpleNamespace(as_numpy=as_numpy)

    def _fill(self) -> mmap.mmap:
        self._file, memory = near.create(self._name, self._size)
        for name in self._at.keys() & self._inputs.keys():
            value = self._inputs[name]
            place = np.frombuffer(memory, value.dtype, value.size, self._at[name])
            place.reshape(value.shape)[...] = value
        return memory

    def _unregister(self) -> bool:
        """Have the server forget the region; False while it uses it."""
        end = time.monotonic() + _ENDING_SECONDS
        limit = {"headers": self._headers, "client_timeout": _CALL_SECONDS}
        with channel.connect(self._server.url, self._tls) as client:
            while True:
                try:
                    client.unregister_system_shared_memory(self._name, **limit)
                    return True
                except InferenceServerException as error:
                    if "in use" not in str(error.message()):
                        return True  # it has gone, or will find no file and forget by itself
                    if time.monotonic() > end:
                        return False
                    time.sleep(0.02)
