"""Large volumes beside the server: equal bytes through shared memory, and no file remains."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import maisi_client
import nibabel as nib
import numpy as np
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client, aio
from maisi_client._transport import dev_shm, shared

from tests.conftest import SHM, Server

ARGUMENTS: dict[str, Any] = {"seed": 3, "steps": 1}


def picture(dtype: type, value: float) -> nib.Nifti1Image:
    values = np.zeros((32, 48, 32), dtype)
    values[8:24, 8:40, 8:24] = value
    return nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0]))


MASK, SOURCE = picture(np.uint8, 227), picture(np.float32, 300)


def call(server: Server, ask: str, *words: str, **more: Any) -> Any:
    key = {shared._KEY: dev_shm.key(server.grpc)}
    with grpc.InferenceServerClient(server.grpc) as client:
        return getattr(client, f"{ask}_system_shared_memory{more.pop('what', '')}")(
            *words, headers=key, **more
        )


def regions(server: Server) -> list[str]:
    """Name the shared memory that clients have registered with the server."""
    return list(call(server, "get", what="_status", as_json=True).get("regions", {}))


def in_use(server: Server) -> list[str]:
    """Name those that a request uses."""
    names = regions(server)
    for name in names:
        with pytest.raises(grpc.InferenceServerException, match="currently in use"):
            call(server, "unregister", name)
    return names


def files() -> list[str]:
    return [path.name for path in SHM.glob("maisi-client-*")]


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "THRESHOLD", 1000)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client itself release its memory, also where the server is slow to do so."""
    monkeypatch.setattr(shared, "_ENDING_SECONDS", 30)


@pytest.fixture(autouse=True)
def clean(eventually: Callable[..., None]) -> Iterator[None]:
    yield
    eventually(lambda: not files())


@pytest.mark.parametrize(
    "inputs",
    [{"mask": MASK}, {"source": SOURCE, "strength": 0.5}, {"mask": MASK, "source": SOURCE},
     {"size": [32, 48, 32]}, {"mask": MASK, "augment": True}],
    ids=lambda inputs: "+".join(inputs),
)  # fmt: skip
def test_both_ways_give_the_same_bytes(
    server: Server, patient: None, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[list[str]] = []  # at each event; the client unregisters after the last

    def note(event: object) -> None:
        registered.append(regions(server))

    with Client(server.grpc) as client:
        far = client.generate(**inputs, **ARGUMENTS, on_progress=note)
        assert not any(registered)  # the volume is small
        monkeypatch.setattr(shared, "THRESHOLD", 1000)
        near = client.generate(**inputs, **ARGUMENTS, on_progress=note)
    assert len(registered[-2]) == 1
    assert near.report["sha256"] == far.report["sha256"]
    assert near.image.get_data_dtype() == np.int16
    assert np.array_equal(near.image.dataobj, far.image.dataobj)
    assert (near.mask is None) == (far.mask is None)
    if near.mask is not None and far.mask is not None:
        assert np.array_equal(near.mask.dataobj, far.mask.dataobj)
    assert regions(server) == []


def test_what_makes_no_image(server: Server, low: None, patient: None) -> None:
    with Client(server.grpc) as client:
        assert client.check(MASK)["size"] == [32, 48, 32]
        assert client.mask(MASK, seed=1).shape == (32, 48, 32)
        with pytest.raises(maisi_client.InvalidRequest, match=r"^modality: 'mri_t9'"):
            client.generate(MASK, modality="mri_t9")
    assert regions(server) == []


def test_a_refusal_is_silent_and_remembered(
    server: Server, low: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def guess(url: str) -> str:
        keys.append(url)
        return "guessed"

    with Client(server.grpc) as client, monkeypatch.context() as patch:
        patch.setattr(dev_shm, "key", guess)
        volumes = [client.generate(MASK, **ARGUMENTS) for _ in range(2)]
        assert len(keys) == 1
    with Client(server.grpc) as client, monkeypatch.context() as patch:
        patch.setattr(dev_shm, "_HEADROOM", 10**9)
        volumes.append(client.generate(MASK, **ARGUMENTS))
    assert len({volume.report["sha256"]["image"] for volume in volumes}) == 1


def test_a_server_with_an_operators_key(
    start_server: Callable[..., Server], low: None, tmp_path: Any
) -> None:
    (tmp_path / "key").write_text("a-key-of-sixteen-or-more")
    server = start_server(None, f"--key-file={tmp_path / 'key'}")
    assert not list(SHM.glob(f"maisi-serve-{server.pid}-*key*"))
    with Client(server.grpc) as client:
        assert client.generate(MASK, **ARGUMENTS).image.shape == (32, 48, 32)
        assert client._pool.servers[0].far_until


def test_leaving_early_lets_the_server_finish_first(
    server: Server, low: None, eventually: Callable[..., None]
) -> None:
    with Client(server.grpc) as client:
        with closing(client.stream(MASK, seed=3, steps=1000)) as events:
            while next(events).stage != "sampler":
                pass
            (name,) = in_use(server)
            assert name in files()
        # While the server may write, the file is there.
        eventually(lambda: name not in files() and not regions(server))
        client.generate(MASK, **ARGUMENTS)


def test_asyncio(
    server: Server,
    low: None,
    patient: None,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Client(server.grpc) as client:
        before = client.generate(MASK, **ARGUMENTS)

    async def ask() -> None:
        async with aio.Client(server.grpc) as client:
            registered: list[list[str]] = []
            volume = await client.generate(
                MASK, **ARGUMENTS, on_progress=lambda _: registered.append(regions(server))
            )
            assert len(registered[-2]) == 1
            assert volume.report["sha256"] == before.report["sha256"]
            assert regions(server) == []
            monkeypatch.setattr(shared, "_ENDING_SECONDS", 0.2)
            task = asyncio.create_task(client.generate(MASK, steps=1000))
            while not regions(server):
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for pause in (0.0, 0.001, 0.003, 0.01, 0.03):  # at any point of the opening
                task = asyncio.create_task(client.generate(MASK, steps=1000))
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(ask())
    eventually(lambda: not files() and not regions(server))


KILLED = """
import sys, nibabel as nib, numpy as np
from maisi_client import Client
from maisi_client._transport import shared
shared.THRESHOLD = 1000
mask = nib.Nifti1Image(np.full((32, 32, 32), 227, np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
for event in Client(sys.argv[1]).stream(mask, steps=1000):
    print(event.stage, flush=True)
"""


def test_what_a_killed_client_leaves_is_swept(
    server: Server, eventually: Callable[..., None]
) -> None:
    words = [sys.executable, "-c", KILLED, server.grpc]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "sampler\n":
            assert process.poll() is None
        (name,) = in_use(server)
        assert name in files()
        process.send_signal(signal.SIGKILL)
    eventually(lambda: name not in files() and not regions(server))
    with Client(server.grpc) as client:
        client.generate(MASK, **ARGUMENTS)
