"""A server is ready while it makes volumes: /ready, and the restart, while they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client

from server import health
from server.address import Address
from server.control import Control, Smallest, probe_id
from server.health import Health
from tests.conftest import PATIENCE, TOKEN, Server
from tests.server import failing_flow
from tests.server.metrics import answers, get, numbers
from tests.server.mini import sized, until_sampling
from tests.server.threads import later, repeating


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return failing_flow.write(tmp_path / "models")


@pytest.fixture(scope="module")
def served(
    module_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    """Serve a repository whose flow fails for some sizes alone."""
    return module_server(failing_flow.write(tmp_path_factory.mktemp("failing") / "models"))


def ask(server: Server, side: int = 32) -> str:
    """Request a volume; return `made`, or the status of the error."""
    try:
        with grpc.InferenceServerClient(server.grpc) as client:
            client.infer("mini", sized(side), client_timeout=PATIENCE)
    except grpc.InferenceServerException as error:
        return str(error.status())
    return "made"


@contextmanager
def traffic(server: Server, side: int = 32) -> Iterator[list[str]]:
    """Request volumes within the block, one after the other; yield the results of `ask`."""
    answers: list[str] = []
    with repeating(lambda: answers.append(ask(server, side))):
        yield answers


@contextmanager
def watching(server: Server) -> Iterator[list[int]]:
    """Poll /ready within the block; yield its statuses, a new one where it changes."""
    statuses: list[int] = []

    def look() -> None:
        status = get(server.status, "ready")[0]
        if statuses[-1:] != [status]:
            statuses.append(status)

    with repeating(look):
        yield statuses


@pytest.mark.parametrize(
    "broken", [pytest.param("mini.flow", marks=pytest.mark.slow), "mini.flow_masked"]
)
def test_while_volumes_fail_the_server_is_not_ready_and_starts_again(
    start_server: Callable[..., Server],
    repository: Path,
    eventually: Callable[..., None],
    broken: str,
) -> None:
    server = start_server(repository)
    assert ask(server) == "made"
    masked = broken == "mini.flow_masked"
    with watching(server) as statuses:
        eventually(lambda: statuses == [200])
        (repository / broken / "1" / "broken").touch()
        if masked:  # volumes without a mask are made all the time
            mask = np.full((32, 32, 32), 22, np.uint8)
            tensor = grpc.InferInput("mask", list(mask.shape), "UINT8")
            tensor.set_data_from_numpy(mask)
            with (
                grpc.InferenceServerClient(server.grpc) as client,
                pytest.raises(grpc.InferenceServerException, match="flow_masked failed"),
            ):
                client.infer("mini", [tensor])
        with traffic(server) as answers:
            eventually(lambda: "tritonserver serves again" in server.log)
            eventually(lambda: answers[-3:] == ["made"] * 3)
            eventually(lambda: statuses[-1] == 200)
    assert statuses == [200, 503, 200]  # and no other change between
    reason = server.log.split("; starting tritonserver again")[0].splitlines()[-1]
    assert "cannot make a volume: " in reason and f"the model {broken[5:]} failed" in reason
    assert "at request 'probe'" in reason  # and not the id that the models know the server by
    assert ("StatusCode.INTERNAL" in answers) != masked
    assert numbers(server.status)['maisi_model_restarts_total{model="tritonserver"}'] == 1


def test_requests_that_fail_by_themselves_do_not_make_a_server_unready(
    served: Server, eventually: Callable[..., None]
) -> None:
    name = 'nv_inference_request_success{model="mini",version="1"}'
    before: Any = numbers(served.metrics)[name]
    with watching(served) as statuses, traffic(served, 48) as answers:
        # The server checks by two volumes of its own, twice, five seconds apart.
        eventually(lambda: numbers(served.metrics)[name] >= before + 4)
    assert set(answers) == {"StatusCode.INTERNAL"}
    assert statuses == [200]
    assert "starting tritonserver again" not in served.log


def failed_volumes(server: Server) -> float:
    return sum(
        count
        for name, count in numbers(server.metrics).items()
        if name.startswith('nv_inference_request_failure{model="mini"')
    )


@pytest.mark.slow
def test_a_shortage_while_others_work_neither_makes_unready_nor_starts_again(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository)
    short = repository / "mini.flow" / "1" / "short"
    with watching(server) as statuses, Client(server.grpc, retries=0) as client:
        before = answers(server.grpc, "mini.flow")
        long = later(client.generate, size=[64, 64, 64], steps=50)
        until_sampling(server, "mini.flow", before)
        short.touch()
        assert ask(server) == "StatusCode.UNAVAILABLE"
        failed = failed_volumes(server)
        assert ask(server, 48) == "StatusCode.INTERNAL"  # so the server probes
        eventually(lambda: failed_volumes(server) >= failed + 2)
        assert long.result(PATIENCE).image.shape == (64, 64, 64)
        short.unlink()
    assert statuses == [200]
    assert "starting tritonserver again" not in server.log


@pytest.mark.slow
def test_a_server_that_is_short_of_memory_at_its_start_is_ready_once_it_is_not(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    short = repository / "mini.flow" / "1" / "short"
    short.touch()
    server = start_server(repository, ready=False)
    out_of_memory = "flow: out of memory: 9 GB"
    eventually(lambda: server.log.count(out_of_memory) >= 3)
    short.unlink()
    server.wait_ready()
    short.touch()  # without other requests it starts again, and tries more than once again
    assert ask(server, 48) == "StatusCode.INTERNAL"
    eventually(lambda: get(server.status, "ready")[0] == 503)
    eventually(lambda: "starting tritonserver again" in server.log)
    before = server.log.count(out_of_memory)
    eventually(lambda: server.log.count(out_of_memory) >= before + 3)
    short.unlink()
    eventually(lambda: "tritonserver serves again" in server.log)
    eventually(lambda: get(server.status, "ready")[0] == 200)
    assert ask(server) == "made"


def hasty(monkeypatch: pytest.MonkeyPatch, server: Server) -> Health:
    """Watch a server with little patience, beside its own supervisor."""
    for name, seconds in (("PROBE", 1), ("IDLE", 0.5), ("FAILING", 1)):
        monkeypatch.setattr(health, name, seconds)
    http, metrics = (int(url.rpartition(":")[2]) for url in (server.http, server.metrics))
    control = Control(Address("127.0.0.1", 0, http, metrics, 0), "", probe_id(TOKEN))
    triton: Any = SimpleNamespace(control=control)
    return Health(triton, {"mini": Smallest((32, 32, 32), 22)}, 1800)


def test_a_volume_of_its_own_that_hangs_is_a_failure(
    start_server: Callable[..., Server],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., None],
) -> None:
    watched = hasty(monkeypatch, start_server(repository))
    (repository / "mini.flow" / "1" / "hanging").touch()
    eventually(lambda: watched.ready() is not None)
    assert str(watched.ready()).startswith("cannot make a volume: no answer: timed out")
    assert not watched.triton.control.activity().running
    eventually(watched.hang)
    watched.stopping = True


def test_answers_without_an_image_are_no_volumes(
    served: Server, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    watched = hasty(monkeypatch, served)
    name = 'nv_inference_request_success{model="mini",version="1"}'
    before: Any = numbers(served.metrics)[name]
    # Not too often: Triton 2.51 ends by SIGABRT once in some thousands of streams.
    with Client(served.grpc) as client, repeating(lambda: client.check(size=[32, 32, 32]), 0.3):
        eventually(lambda: numbers(served.metrics)[name] >= before + 4)
    watched.stopping = True


def test_nobody_but_the_server_has_requests_that_do_not_count(server: Server) -> None:
    counter = 'maisi_requests_total{outcome="done",variant="mini"}'
    with grpc.InferenceServerClient(server.grpc) as client:
        for name in ("probe", "probe-", f"probe-{'0' * 64}", probe_id("")):
            before = numbers(server.metrics).get(counter, 0)
            size, steps = sized(32)
            client.infer("mini", [size, steps], request_id=name)
            assert numbers(server.metrics)[counter] == before + 1


@pytest.mark.slow
def test_a_server_whose_own_volume_hangs_starts_again(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository)
    (repository / "mini.flow" / "1" / "hanging").touch()
    assert ask(server, 48) == "StatusCode.INTERNAL"
    eventually(lambda: get(server.status, "ready")[0] == 503)
    eventually(lambda: "tritonserver serves again" in server.log)
    assert ask(server) == "made"
    assert get(server.status, "ready") == (200, "ok\n")
