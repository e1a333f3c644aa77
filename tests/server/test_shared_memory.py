"""A client's file that shrinks ends tritonserver; it starts again, and requests are repeated."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client
from maisi_client._transport import dev_shm, shared

from server import region_modes, shared_memory, temporary
from tests.conftest import PATIENCE, SHM, Server

NAME = "maisi-client-0123456789abcdef"


@pytest.mark.slow
def test_a_file_that_shrinks_after_it_was_registered(
    start_server: Callable[..., Server], eventually: Callable[..., None]
) -> None:
    server = start_server()
    shape = [64, 64, 64]
    size = int(np.prod(shape))
    headers = {shared._KEY: dev_shm.key(server.grpc)}
    request = {"size": [32, 32, 32], "steps": 300, "seed": 5}
    with Client(server.grpc, retries=30) as client, ThreadPoolExecutor(1) as pool:
        before = client.generate(**request).report["sha256"]
        events = client.stream(**request)
        next(events)  # it runs
        rest = pool.submit(list, events)
        descriptor, memory = dev_shm.create(NAME, size)
        try:
            with grpc.InferenceServerClient(server.grpc) as other:
                other.register_system_shared_memory(NAME, f"/{NAME}", size, headers=headers)
                os.ftruncate(descriptor, 0)
                mask = grpc.InferInput("mask", shape, "UINT8")
                mask.set_shared_memory(NAME, size)
                with pytest.raises(grpc.InferenceServerException):
                    other.infer("mini", [mask], client_timeout=PATIENCE)
        finally:
            memory.close()
            os.close(descriptor)
            (SHM / NAME).unlink(missing_ok=True)
        assert rest.result(PATIENCE)[-1].report["sha256"] == before  # it was sent again
    eventually(lambda: "tritonserver serves again" in server.log)
    assert "tritonserver ended by itself with status -7; starting" in server.log  # SIGBUS


def test_files_of_other_users_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "SHM", tmp_path)
    prefix, descriptor = shared_memory.claim()
    foreign = tmp_path / f"{prefix}x"
    foreign.touch(0o644)
    odd = tmp_path / f"{shared_memory.PREFIX}{os.getpid()}-lock"  # not the name of a marker
    odd.touch()
    assert shared_memory.sweep_servers() == 0 and odd.exists()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)  # all files are another user's now
    region_modes.close_regions(prefix)
    shared_memory.remove_regions(prefix)
    os.close(descriptor)  # the lock is free
    assert shared_memory.sweep_servers() == 0
    assert foreign.stat().st_mode & 0o777 == 0o644
    monkeypatch.undo()
    monkeypatch.setattr(shared_memory, "SHM", tmp_path)
    region_modes.close_regions(prefix)
    assert foreign.stat().st_mode & 0o777 == 0o600
    assert shared_memory.sweep_servers() == 1
    assert list(tmp_path.iterdir()) == [odd]


def claimed(folder: Path) -> tuple[Path, int]:
    prefix, descriptor = shared_memory.claim()
    return folder / f"{prefix}lock", descriptor


def made_folder(folder: Path) -> tuple[Path, int]:
    return temporary._locked(folder / "maisi-serve-1-0123abcd")


def client_file(folder: Path) -> tuple[Path, int]:
    descriptor, memory = dev_shm.create(NAME, 10)
    memory.close()
    return folder / NAME, descriptor


@pytest.mark.parametrize(
    ("make", "sweep"),
    [
        (claimed, lambda folder: shared_memory.sweep_servers()),
        (made_folder, lambda folder: temporary.sweep([folder])),
        (client_file, lambda folder: shared_memory.sweep_clients()),
    ],
)
def test_what_a_server_removes_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, sweep: Any
) -> None:
    for module in (shared_memory, dev_shm):
        monkeypatch.setattr(module, "SHM", tmp_path)
    lock = fcntl.flock

    def sweep_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == []
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    path, descriptor = make(tmp_path)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    os.close(descriptor)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
