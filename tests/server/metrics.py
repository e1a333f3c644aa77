"""Requests of Kubernetes and Prometheus."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import tritonclient.grpc as grpc

from tests.conftest import PATIENCE


def get(address, path):
    """Return the status and the text of the answer to GET."""
    try:
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def numbers(address):
    """Return the value of every metric, by its name and labels."""
    _, text = get(address, "metrics")
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def answers(address, model):
    """Return how often a model, at the gRPC address of its server, has answered."""
    with grpc.InferenceServerClient(address) as client:
        stats = client.get_inference_statistics(model).model_stats
        return sum(version.inference_count for version in stats)


def until_answered(address, model, before=None):
    """Wait until a model has answered twice after its first `before` answers.

    Without `before` the wait is for two answers from now on, so the model must answer for long.
    """
    before = answers(address, model) if before is None else before
    deadline = time.monotonic() + PATIENCE
    while answers(address, model) < before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
