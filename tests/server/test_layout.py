"""Limits, the malloc of tritonserver and of its models, and memory that it frees."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc

from bench import processes
from server import layout
from tests.conftest import PATIENCE, ROOT

TIME = "but a number above 0 and up to 1e+09 is expected."


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--max-waiting=0", "--max-waiting: 0, but 1 or more is expected."),
        ("--max-waiting=-8", "--max-waiting: -8, but 1 or more is expected."),
        ("--max-voxels=0", "--max-voxels: 0, but 1 or more is expected."),
        ("--max-seconds=-1", "--max-seconds: -1, but 1 or more is expected."),
        ("--memory-gb=0", "--memory-gb: 0, but a number above 0 is expected."),
        ("--memory-gb=nan", "--memory-gb: nan, but a number above 0 is expected."),
        ("--memory-gb=inf", "--memory-gb: inf, but a number above 0 is expected."),
        ("--spill-gb=-2", "--spill-gb: -2, but a number from 0 on is expected."),
        ("--spill-gb=inf", "--spill-gb: inf, but a number from 0 on is expected."),
        ("--stall-seconds=0", f"--stall-seconds: 0, {TIME}"),
        ("--start-seconds=inf", f"--start-seconds: inf, {TIME}"),
        ("--start-seconds=nan", f"--start-seconds: nan, {TIME}"),
        (
            "--drain-seconds=-1",
            "--drain-seconds: -1, but a number from 0 on and up to 1e+09 is expected.",
        ),
    ],
)
def test_a_limit_that_would_be_none_ends_with_a_sentence(start_server, option, sentence):
    server = start_server(None, option, ready=False)
    assert server.process.wait(PATIENCE) == 1
    assert server.log.splitlines() == [f"serve: {sentence}"]


def test_an_inner_model_is_not_a_variant():
    assert "mini.stream" in layout.model_names(ROOT / "model_repository", ["mini"])
    with pytest.raises(ValueError, match=r"has no model 'mini.stream'; it has \[\"mini\"\]\.$"):
        layout.model_names(ROOT / "model_repository", ["mini.stream"])


def test_the_malloc_of_tritonserver_is_not_the_models(server):
    assert server.triton.environ().items() >= layout.MALLOC.items()
    stubs = [child for child in server.triton.children() if len(child.cmdline()) > 1]
    assert len(stubs) > 5
    for stub in stubs:
        assert not layout.MALLOC.keys() & stub.environ().keys()
        assert stub.environ()["GLIBC_TUNABLES"].split(":")[0] == layout.HUGE_PAGES


def test_tritonserver_gives_back_what_large_messages_took(server, eventually):
    mask = grpc.InferInput("mask", [256, 256, 256], "UINT8")
    mask.set_data_from_numpy(np.zeros((256, 256, 256), np.uint8))

    def send_refused(number):
        with (
            grpc.InferenceServerClient(server.grpc) as client,
            pytest.raises(grpc.InferenceServerException, match="at most 8388608"),
        ):
            client.infer("mini", [mask])

    before = processes.private(server.triton.pid)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send_refused, range(8)))
    eventually(lambda: processes.private(server.triton.pid) < before + 32e6)
