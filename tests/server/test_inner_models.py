"""No message to an inner model changes the bytes of later requests.

Every network of mini, of a small CT variant and of one without masks gets each kind of wrong input,
from a caller with the server's token and from one without.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client

from bench import network_inputs
from bench.network_inputs import Inputs
from tests.conftest import PATIENCE, TOKEN, Server

# Their requests generate a mask; they are compared once, after all wrong inputs.
SLOW = {"mini.mask_flow", "mini.mask_decoder"}


class Caller:
    """Requests volumes of a server, and calls its networks."""

    def __init__(self, server: Server) -> None:
        self.client = grpc.InferenceServerClient(server.grpc)

    def ordinary(self, network: str) -> bytes:
        """Return the volume of a request whose stages call a network."""
        variant, _, short = network.partition(".")
        small = np.array([32, 32, 32], np.int32)
        mask = np.zeros(small, np.uint8)
        mask[8:24, 8:24, 8:24] = 22
        sizes = b"head=0.5" if variant == "mini" else b"liver=0.5"
        anatomy = {"anatomy": np.array([sizes], object), "size": small}
        inputs_of: dict[str, Inputs] = {
            "vae_encoder": {"source": np.zeros(small, np.float32)},
            "mask_encoder": {"mask": mask},
            "flow_masked": {"mask": mask},
            "mask_flow": anatomy,
            "mask_decoder": anatomy,
        }
        inputs = inputs_of.get(short, {"size": small})
        inputs = inputs | {"seed": np.array([7]), "steps": np.array([1], np.int32)}
        result = self.client.infer(
            variant, network_inputs.infer_inputs(inputs), client_timeout=PATIENCE
        )
        return bytes(result.as_numpy("image").tobytes())

    def run(self, model: str, inputs: Inputs, **parameters: str) -> None:
        self.client.infer(
            model,
            network_inputs.infer_inputs(inputs),
            client_timeout=PATIENCE,
            parameters=parameters,
        )

    def refusal(self, model: str, inputs: Inputs, **parameters: str) -> str:
        with pytest.raises(grpc.InferenceServerException) as caught:
            self.run(model, inputs, **parameters)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        text = str(caught.value.message())
        assert "Traceback" not in text and "\n" not in text and "/" not in text
        return text


LIMITS = ("--max-voxels=262144", "--max-waiting=1")  # 64^3 voxels, for the networks, too


@pytest.fixture(scope="module")
def mini(module_server: Callable[..., Server]) -> Server:
    return module_server(None, *LIMITS)


@pytest.fixture(scope="module", params=["mini", pytest.param("official", marks=pytest.mark.slow)])
def served(request: pytest.FixtureRequest, module_server: Callable[..., Server]) -> Server:
    if request.param == "mini":
        server: Server = request.getfixturevalue("mini")
        return server
    return module_server(request.getfixturevalue("official_repository") / "models", *LIMITS)


def test_each_kind_of_wrong_input_is_refused_and_changes_no_later_request(
    served: Server,
) -> None:
    caller = Caller(served)
    served_networks = network_inputs.of_server(caller.client)
    processes = {network.name: served.stub(network.name).pid for network in served_networks}
    before = {network.name: caller.ordinary(network.name) for network in served_networks}
    count = 0
    for network in served_networks:
        for kind, wrong in network.wrong():
            for inputs in wrong:
                caller.refusal(network.name, inputs, maisi_token=TOKEN)
                count += 1
            if network.name not in SLOW:
                assert caller.ordinary(network.name) == before[network.name], (network.name, kind)
    assert count > 40 * len(served.variants)
    assert {name: caller.ordinary(name) for name in before} == before
    assert {name: served.stub(name).pid for name in processes} == processes


def test_only_the_stages_may_call_a_network(served: Server) -> None:
    caller = Caller(served)
    for network in network_inputs.of_server(caller.client):
        variant = network.name.partition(".")[0]
        sentence = f"{network.name}: only the stages of {variant} call it; "
        good: Callable[[], Inputs] = network.good
        for parameters in ({}, {"maisi_token": "guess"}, {"maisi_token": ""}):
            assert caller.refusal(network.name, good(), **parameters).startswith(sentence)
        caller.run(network.name, good(), maisi_token=TOKEN)
        huge = network.good(256) if "size" not in network.contract else good()
        assert caller.refusal(network.name, huge).startswith(sentence)


def test_a_call_that_prepares_a_later_one_changes_no_volume(mini: Server) -> None:
    caller = Caller(mini)
    before = caller.ordinary("mini.flow_masked")
    for network in network_inputs.of_server(caller.client):
        size = network.contract.get("size", [48, 32, 32])
        later = json.dumps({"rows": 1, "volume": size})
        caller.run(network.name, {}, maisi_token=TOKEN, maisi_prepare=later)
        caller.refusal(network.name, {}, maisi_prepare=later)
        caller.refusal(network.name, {}, maisi_token=TOKEN)  # without inputs
        too_large = json.dumps({"rows": 1, "volume": [512, 32, 32]})
        caller.refusal(network.name, {}, maisi_token=TOKEN, maisi_prepare=too_large)
    assert caller.ordinary("mini.flow_masked") == before


def test_strangers_who_call_a_network_without_pause_do_not_fail_ordinary_requests(
    mini: Server, eventually: Callable[..., None]
) -> None:
    with Client(mini.grpc) as client:
        request = {"size": [32, 32, 32], "steps": 5, "seed": 3}
        before = client.generate(**request).report["sha256"]
        served_networks = network_inputs.of_server(Caller(mini).client)
        [flow] = [network for network in served_networks if network.name == "mini.flow"]
        stop, statuses = threading.Event(), set()

        def flood() -> None:
            with grpc.InferenceServerClient(mini.grpc) as stranger:
                while not stop.is_set():
                    try:
                        stranger.infer("mini.flow", network_inputs.infer_inputs(flow.good()))
                        statuses.add("answered")
                    except grpc.InferenceServerException as error:
                        statuses.add(error.message()[:24])

        with ThreadPoolExecutor(6) as pool:
            floods = [pool.submit(flood) for _ in range(6)]
            try:
                eventually(lambda: statuses)
                assert client.generate(**request).report["sha256"] == before
                assert client.generate(**request).report["sha256"] == before
            finally:
                stop.set()
            for future in floods:
                future.result(PATIENCE)
    assert statuses == {"mini.flow: only the stag"}


@pytest.mark.slow
def test_a_wrong_message_a_second_for_a_minute_changes_no_volume(
    start_server: Callable[..., Server],
) -> None:
    server = start_server()
    caller = Caller(server)
    wrong = itertools.cycle(
        (network.name, inputs)
        for network in network_inputs.of_server(caller.client)
        for _, wrong_inputs in network.wrong()
        for inputs in wrong_inputs
    )
    before = [caller.ordinary(name) for name in ("mini.flow", "mini.flow_masked")]
    for second in range(60):
        model, inputs = next(wrong)
        caller.refusal(model, inputs, **({"maisi_token": TOKEN} if second % 2 else {}))
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert [caller.ordinary(name) for name in ("mini.flow", "mini.flow_masked")] == before
