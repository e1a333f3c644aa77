"""The control connection to tritonserver: HTTP requests with the key on this computer."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

import numpy as np
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from server.address import LOOPBACK, Address
from server.launch import KEY_HEADER

# The numbers of requests that our models process, and that wait in Triton's queues.
_RUNNING = re.compile(r"^maisi_requests_running{[^}]*} (\S+)$", re.MULTILINE)
_WAITING = re.compile(
    r"^(?:maisi_requests_waiting|nv_inference_pending_request_count){[^}]*} (\S+)$", re.MULTILINE
)
_FAILED = re.compile(r'^maisi_requests_total{[^}]*outcome="failed"[^}]*} (\S+)$', re.MULTILINE)
_VOXELS = re.compile(r"^maisi_voxels_total{[^}]*} (\S+)$", re.MULTILINE)
_PROGRESS = re.compile(r"^maisi_progress_timestamp_seconds{[^}]*} (\S+)$", re.MULTILINE)
_REGIONS = "systemsharedmemory"


class ControlError(Exception):
    """Triton answered with an error, or did not answer; the message is a sentence.

    `answered` is True if there was an answer, and `unavailable` if its status was UNAVAILABLE.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        """Store the HTTP status of the answer; None if there was no answer."""
        super().__init__(message)
        self.answered = status is not None
        self.unavailable = status == HTTPStatus.SERVICE_UNAVAILABLE


@dataclass(frozen=True)
class Smallest:
    """The smallest volume of a variant: its sides in voxels, and a label for a mask.

    `label` is None for a variant without masks.
    """

    size: tuple[int, int, int]
    label: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any], variant: Mapping[str, Any]) -> Smallest:
        """Return it for an ensemble's configuration and its parameter `variant`."""
        takes_mask = any(tensor["name"] == "mask" for tensor in config["input"])
        x, y, z = variant["size"]["min"]
        if not takes_mask:
            return cls((x, y, z), None)
        return cls((x, y, z), min(int(label) for label in variant["labels"] if label != "0"))


@dataclass(frozen=True)
class Activity:
    """The activity of the models, from their metrics.

    `running` is the number of requests in progress, without the server's own requests. `waiting` is
    the number of requests in queues, including the server's own. `progress` is the time of the
    latest progress, in seconds since the epoch. `voxels` is the total number of voxels of all
    volumes so far, and `failed` the total number of failed requests.
    """

    running: float
    waiting: float
    progress: float
    voxels: float
    failed: float

    @property
    def busy(self) -> bool:
        """Whether requests run or wait."""
        return self.running + self.waiting > 0


class Control:
    """The control connection. All methods except `ready` and `unregister` raise ControlError."""

    def __init__(self, address: Address, key: str, probe_id: str):
        """Store tritonserver's address and key, and the id of the server's own requests."""
        self.probe_id = probe_id
        self._key = key
        self._http = (LOOPBACK, address.http)
        self._metrics = (address.near, address.metrics)

    def ready(self) -> bool:
        """Return whether tritonserver reports that it is ready."""
        try:
            self._request("/v2/health/ready", timeout=5)
        except ControlError:
            return False
        return True

    def states(self) -> dict[str, str]:
        """Return the state of each model: READY, UNLOADING, UNAVAILABLE or LOADING."""
        index = self._request_json("/v2/repository/index", {})
        states = {model["name"]: model.get("state", "") for model in index}
        # A model has an entry for each version, and one of them may be served.
        return states | {m["name"]: "READY" for m in index if m.get("state") == "READY"}

    def config(self, model: str) -> dict[str, Any]:
        """Return the configuration of a loaded model."""
        config: dict[str, Any] = self._request_json(f"/v2/models/{model}/config")
        return config

    def inference_count(self) -> int:
        """Return the number of requests that the models have answered so far."""
        statistics = self._request_json("/v2/models/stats")["model_stats"]
        return sum(int(model["inference_count"]) for model in statistics)

    def load(self, model: str) -> None:
        """Load a model and the ensembles that wait for it."""
        self._request(f"/v2/repository/models/{model}/load", {}, 300)

    def unload(self, model: str) -> None:
        """Unload a model: it refuses new requests, and finishes running requests."""
        self._request(f"/v2/repository/models/{model}/unload", {}, 30)

    def regions(self) -> list[str]:
        """Return the names of the shared memory regions that clients have registered."""
        return [region["name"] for region in self._request_json(f"/v2/{_REGIONS}/status")]

    def unregister(self, region: str) -> bool:
        """Unregister a client's shared memory region; return False if a request still uses it."""
        try:
            self._request(f"/v2/{_REGIONS}/region/{quote(region, safe='')}/unregister", {})
        except ControlError:
            return False
        return True

    def probe(self, model: str, smallest: Smallest, seconds: float) -> None:
        """Make the variant's smallest volume in one step; if it has masks, also one from a mask."""
        steps = {"steps": np.ones(1, np.int32)}
        self._infer(model, {"size": np.array(smallest.size, np.int32), **steps}, seconds)
        if smallest.label is not None:
            mask = np.full(smallest.size, smallest.label, np.uint8)
            self._infer(model, {"mask": mask, **steps}, seconds)

    def call_without_token(self, config: Mapping[str, Any], seconds: float) -> None:
        """Call a network without the token, with zeros of the smallest shapes."""
        tensors = {
            tensor["name"]: np.zeros(
                [max(1, int(side)) for side in tensor["dims"]],
                triton_to_np_dtype(tensor["data_type"].removeprefix("TYPE_")),
            )
            for tensor in config["input"]
        }
        self._infer(config["name"], tensors, seconds)

    def metrics(self) -> str:
        """Return the metrics of Triton and of our models, in Prometheus' text format."""
        return self._request("/metrics", address=self._metrics).decode(errors="replace")

    def activity(self) -> Activity:
        """Return the activity of the models, from their metrics."""
        text = self.metrics()
        running, waiting, voxels, failed = (
            sum(map(float, pattern.findall(text)))
            for pattern in (_RUNNING, _WAITING, _VOXELS, _FAILED)
        )
        progress = max(map(float, _PROGRESS.findall(text)), default=0.0)
        return Activity(running, waiting, progress, voxels, failed)

    def _infer(self, model: str, tensors: Mapping[str, Any], seconds: float) -> None:
        inputs = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": np_to_triton_dtype(array.dtype),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in tensors.items()
        ]
        binary = {"binary_data_output": True}  # the volume is not read, so avoid its text form
        body = {"id": self.probe_id, "inputs": inputs, "parameters": binary}
        raw = b"".join(array.tobytes() for array in tensors.values())
        self._request(f"/v2/models/{model}/infer", body, seconds, raw)

    def _request_json(self, path: str, body: Any = None) -> Any:
        try:
            return json.loads(self._request(path, body))
        except (ValueError, RecursionError):
            raise ControlError(f"no answer: {path} is not JSON, which is expected") from None

    def _request(
        self,
        path: str,
        body: Any = None,
        timeout: float = 10,
        tensors: bytes = b"",
        address: tuple[str, int] | None = None,
    ) -> bytes:
        """Return the answer to a POST of JSON followed by `tensors`, or to a GET.

        `address` is host and port; the default is Triton's HTTP. Proxies in the environment are not
        used. Raises ControlError for an error, and for an answer that is incomplete or not HTTP.
        """
        head = b"" if body is None else json.dumps(body).encode()
        headers = {KEY_HEADER: self._key}
        if tensors:
            headers["Inference-Header-Content-Length"] = str(len(head))
        connection = HTTPConnection(*(address or self._http), timeout=timeout)
        try:
            connection.request("POST" if head else "GET", path, head + tensors or None, headers)
            answer = connection.getresponse()
            if answer.length is None and not answer.chunked:  # it may be incomplete
                raise HTTPException("the answer has no length")
            content = answer.read()
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise ControlError(f"no answer: {reason}") from None
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            text = content.decode(errors="replace")
            with suppress(ValueError, KeyError, TypeError):
                text = json.loads(text)["error"]
            raise ControlError(text or f"HTTP status {answer.status}", answer.status)
        return content


def probe_id(token: str) -> str:
    """Return the id of the server's own requests, which the models know and no client can guess."""
    digest = hmac.new(token.encode(errors="surrogatepass"), b"probe", hashlib.sha256)
    return f"probe-{digest.hexdigest()}"  # the same as in backends/engines/guard.py


def variant_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the parameter `variant` of a model's configuration; None if it has none."""
    parameter = config.get("parameters", {}).get("variant")
    if parameter is None:
        return None
    variant: dict[str, Any] = json.loads(parameter["string_value"])
    return variant
