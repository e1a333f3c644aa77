"""The metrics of the status port, which Triton's own metrics do not have."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.address import Address
from server.health import Health
from server.host import SHM


def exposition(health: Health, tls: Address | None) -> str:
    """Return the metrics of a server in Prometheus' text format.

    `tls` is the address of gRPC with TLS; None without TLS.
    """
    registry = CollectorRegistry()
    registry.register(_StatusCollector(health, tls))
    return generate_latest(registry).decode()


class _StatusCollector(Collector):
    def __init__(self, health: Health, tls: Address | None) -> None:
        self._health, self._tls = health, tls

    def collect(self) -> Iterable[Metric]:
        health = self._health
        yield _gauge(
            "maisi_server_ready", "1 while the server can make volumes", health.ready() is None
        )
        yield _gauge("maisi_server_stopping", "1 while the server stops", health.stopping)
        yield _gauge(
            "maisi_shared_memory_free_bytes", "Free bytes of /dev/shm", shutil.disk_usage(SHM).free
        )
        stubs = health.triton.stubs()
        resident = GaugeMetricFamily(
            "maisi_model_resident_bytes", "Resident memory of a model's processes", labels=["model"]
        )
        for model, size in _resident_bytes(stubs).items():
            resident.add_metric([model], size)
        yield resident
        restarts = CounterMetricFamily(
            "maisi_model_restarts", "Restarts of a process that died or hung", labels=["model"]
        )
        # Also publish 0 for tritonserver: Prometheus sees no increase in a series that begins at 1.
        for model in sorted({*stubs.values(), "tritonserver", *health.restarts}):
            restarts.add_metric([model], health.restarts[model])
        yield restarts
        if self._tls is not None and (expires := expiry(self._tls)) is not None:
            yield _gauge(
                "maisi_certificate_expiry_timestamp_seconds",
                "When the served certificate expires, in seconds since the epoch",
                expires,
            )


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(name, description, value=value)


def _resident_bytes(stubs: dict[int, str]) -> Counter[str]:
    """Return the resident bytes of each model; `stubs` maps process ids to models.

    A model may have several processes.
    """
    resident: Counter[str] = Counter()
    for pid, model in stubs.items():
        with suppress(psutil.Error):
            resident[model] += psutil.Process(pid).memory_info().rss
    return resident


def expiry(address: Address) -> float | None:
    """Return the expiry time of the certificate that gRPC serves, in seconds since the epoch.

    The result is 0 for an expired certificate, and None if there is no answer. The certificate is
    read from the port instead of its file, because Triton reads the file only at its start.
    """
    endpoint = (address.near, address.grpc)
    try:
        context = ssl.create_default_context(cadata=ssl.get_server_certificate(endpoint, timeout=5))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate is the trust anchor
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(endpoint, 5) as plain, context.wrap_socket(plain) as secure:
            certificate = secure.getpeercert()
    except ssl.SSLCertVerificationError:
        return 0.0
    except OSError:
        return None
    if not certificate:
        return None
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
