"""What Kubernetes and Prometheus ask."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import tritonclient.grpc as grpc

from tests.conftest import PATIENCE


def get(address, path):
    """Return the status and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def numbers(address):
    """Every metric by its name and labels."""
    _, text = get(address, "metrics")
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def until_answered(address, model):
    """Wait until a model, at the gRPC address of its server, has answered twice."""
    with grpc.InferenceServerClient(address) as client:

        def answered():
            stats = client.get_inference_statistics(model).model_stats
            return sum(one.inference_count for one in stats)

        before = answered()
        deadline = time.monotonic() + PATIENCE
        while answered() < before + 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
