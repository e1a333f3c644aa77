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
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from . import _transport as transport
from ._pool import Server
from ._tls import Tls

THRESHOLD = 8 << 20  # bytes of a request's volumes, the answer's too; docs/benchmarks.md, Transfer
_SHM = Path("/dev/shm")
_PREFIX = "maisi-client-"  # as server/layout.py has it
_KEY = "triton-grpc-protocol-maisi-control"
_REST_SECONDS = 60.0  # of a server that would not
_CALL_SECONDS = 5.0
_ENDING_SECONDS = 0.2  # from the last message of a request until Triton lets go of its memory
_SHARE = 8  # the server's own part of /dev/shm is some times as large as ours
_log = logging.getLogger("maisi_client")


class Region:
    """The tensors of one request to `server`: volumes in shared memory once it is open, or not.

    `close` leaves what the server still uses, as after a request was cancelled, to the server: it
    removes files whose lock nobody holds, when it has let go of them. Both calls block.
    """

    def __init__(
        self, server: Server[Any], tls: Tls | None, model: str, inputs: Mapping[str, NDArray[Any]]
    ) -> None:
        self.model = model
        self._server, self._tls, self._inputs = server, tls, inputs
        self._name = f"{_PREFIX}{secrets.token_hex(8)}"
        self._at: dict[str, int] = {}  # tensors by where they begin
        self._size = 0
        for name, value in inputs.items():
            if value.ndim >= 3:
                self._place(name, value.nbytes)
        if answer := _answer_bytes(inputs):
            self._place("image", answer)
        self._lock = threading.Lock()  # of an `open` that nobody waits for any more
        self._descriptor: int | None = None
        self._memory: mmap.mmap | None = None
        self._key = ""
        self._outputs: list[str] = []

    def __enter__(self) -> Region:
        if self.worth_it:
            self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def worth_it(self) -> bool:
        """Whether to try: the volumes are large, the server is near and did not refuse lately."""
        host = self._server.url.rpartition(":")[0].strip("[]")
        near = host in ("localhost", "::1") or host.startswith("127.")
        return near and self._size >= THRESHOLD and time.monotonic() >= self._server.far_until

    def open(self) -> None:
        """Put the volumes into shared memory that the server knows; or else leave all as it is."""
        with self._lock:
            try:
                self._key = _key(self._server.url.rpartition(":")[2])
                memory = self._create()
                with self._connected() as client:
                    told = client.get_model_config(self.model, client_timeout=_CALL_SECONDS)
                    self._outputs = [tensor.name for tensor in told.config.output]
                    client.register_system_shared_memory(
                        self._name, f"/{self._name}", self._size, **self._call()
                    )
                self._memory = memory
            except (OSError, InferenceServerException) as error:
                _log.debug("no shared memory with %s: %s", self._server.url, error)
                self._server.far_until = time.monotonic() + _REST_SECONDS
                self._remove()

    def close(self) -> None:
        """Forget the shared memory, if it is there."""
        with self._lock:
            if self._memory is not None and not self._unregister():
                os.close(self._descriptor)  # type: ignore[arg-type]  # with it the lock
                self._descriptor = self._memory = None
            self._remove()

    def tensors(self) -> list[Any]:
        """Return the inputs as tritonclient has them."""
        if self._memory is None:
            return transport.to_triton(self._inputs)
        small = {name: value for name, value in self._inputs.items() if name not in self._at}
        large = []
        for name in self._inputs.keys() - small.keys():
            value = self._inputs[name]
            tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            large.append(tensor.set_shared_memory(self._name, value.nbytes, self._at[name]))
        return transport.to_triton(small) + large

    def outputs(self) -> list[Any] | None:
        """Return what is asked for, None: everything; an output can be placed only by name."""
        if self._memory is None or "image" not in self._at:
            return None
        asked = {name: triton.InferRequestedOutput(name) for name in self._outputs}
        size = self._size - self._at["image"]  # it is the last
        asked["image"].set_shared_memory(self._name, size, self._at["image"])
        return list(asked.values())

    def read(self, result: Any) -> Any:
        """Return a part of the answer with the image in it that lies in shared memory."""
        told = result.get_output("image")
        if self._memory is None or "image" not in self._at or told is None:
            return result
        count = math.prod(told.shape)
        image = np.frombuffer(self._memory, np.int16, count, self._at["image"])
        return _Result(result, image.reshape(tuple(told.shape)))

    def _place(self, name: str, size: int) -> None:
        self._at[name] = -(-self._size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._size = self._at[name] + size

    def _create(self) -> mmap.mmap:
        import fcntl  # not everywhere, and neither is /dev/shm

        if _SHARE * self._size > shutil.disk_usage(_SHM).free:
            raise OSError(f"{_SHM} has too little room for {self._size} bytes")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        self._descriptor = os.open(_SHM / self._name, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(self._descriptor, 0, self._size)  # an error here, not a signal later
        memory = mmap.mmap(self._descriptor, self._size)
        for name, at in self._at.items():
            if (value := self._inputs.get(name)) is not None:
                np.frombuffer(memory, value.dtype, value.size, at).reshape(value.shape)[...] = value
        return memory

    def _unregister(self) -> bool:
        """Have the server forget the region; False while it uses it."""
        end = time.monotonic() + _ENDING_SECONDS
        with self._connected() as client:
            while True:
                try:
                    client.unregister_system_shared_memory(self._name, **self._call())
                except InferenceServerException as error:
                    if "in use" not in str(error.message()):
                        return True  # the server has gone, or finds no file and forgets by itself
                    if time.monotonic() > end:
                        return False
                    time.sleep(0.02)
                else:
                    return True

    def _remove(self) -> None:
        if self._descriptor is not None:
            (_SHM / self._name).unlink(missing_ok=True)
            os.close(self._descriptor)
        self._descriptor = self._memory = None  # whoever still holds an array keeps its pages

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        client = transport.connect(self._server.url, self._tls)
        try:
            yield client
        finally:
            client.close()

    def _call(self) -> dict[str, Any]:
        return {"headers": {_KEY: self._key}, "client_timeout": _CALL_SECONDS}


@dataclass(frozen=True)
class _Result:
    """A part of the answer whose image came another way."""

    rest: Any
    image: NDArray[np.int16]

    def as_numpy(self, name: str) -> Any:
        return self.image.copy() if name == "image" else self.rest.as_numpy(name)


def _answer_bytes(inputs: Mapping[str, NDArray[Any]]) -> int:
    """Return how large the image will be, int16; 0 where there is none or nobody knows yet."""
    if inputs.keys() & {"check", "mask_only"}:
        return 0
    for name in ("mask", "source"):
        if name in inputs:
            return 2 * inputs[name].size
    return max(2 * math.prod(map(int, inputs.get("size", [0]))), 0)


def _key(port: str) -> str:
    """Return the key that our user's server at `port` has left; raises OSError without one."""
    doors = [
        (told.st_mtime, path)
        for path in _SHM.glob(f"maisi-serve-*-door-{port}")
        if (told := path.lstat()).st_uid == os.getuid() and stat.S_ISREG(told.st_mode)
    ]
    if not doors:
        raise FileNotFoundError(f"{_SHM} has no key of a server at port {port}")
    return max(doors)[1].read_text()
