"""What Kubernetes and Prometheus ask: /live, /ready and /metrics, of the server as a whole.

Triton calls a model ready whose process is dead or hangs. Here ready means that a volume is being
made right now, or that a tiny one could be made a moment ago.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import psutil

from server.host import SHM
from server.triton import Address, Refused, Triton

LOOK = 0.5  # seconds between two looks at a server
IDLE = 30.0  # seconds between two tiny volumes where nothing else is made
PROBE = 60.0  # seconds that a tiny volume may take
FAILING = 30.0  # seconds of attempts after which tritonserver starts again


class Health:
    """What is known of a running server, looked at all the time; threads may share it.

    `variants`: name -> its smallest size. `stall`: seconds without progress after which work counts
    as hanging. `address`: where gRPC speaks TLS, None where it does not.
    """

    def __init__(
        self,
        triton: Triton,
        variants: Mapping[str, list[int]],
        stall: float,
        address: Address | None,
    ):
        """Begin with a server that has just answered."""
        self.triton, self.variants, self.stall = triton, variants, stall
        self.restarts: Counter[str] = Counter()
        self.loading = ""  # what died and is being loaded again
        self.stopping = False
        self._tls = address
        self._problem: str | None = None
        self._patience = 0.0  # seconds after which a problem needs a new start
        self._well = self._probed = self._moved = time.monotonic()
        self._progress = 0.0  # what Triton said last, when it `_moved`
        threading.Thread(target=self._watch, daemon=True).start()

    def ready(self) -> str | None:
        """Say why no request should come here now; None: it may."""
        if self.stopping:
            return "stopping: running requests finish first"
        if self.loading:
            return f"{self.loading} died and is being loaded again"
        return self._problem

    def hung(self) -> str | None:
        """Say why tritonserver has to start again though it runs; None: it need not."""
        ill = time.monotonic() - self._well
        return self._problem if not self.loading and ill > self._patience else None

    def healed(self) -> None:
        """Note that what was `loading` serves again."""
        self._problem, self._well, self.loading = None, time.monotonic(), ""

    def live(self) -> str | None:
        """Say what is not mended though it should be by now; None: nothing."""
        ill = time.monotonic() - self._well
        if self.stopping or self.loading or self._problem is None:
            return None
        if ill <= self.stall + FAILING:
            return None
        return f"not ready for {ill:.0f} s: {self._problem}"

    def _watch(self) -> None:
        while not self.stopping:
            try:
                if self.triton.busy():
                    problem, patience = self._stalled()
                else:
                    problem, patience = self._failing()
                    self._moved = time.monotonic()  # what comes now has all its time
            except Refused as error:
                problem, patience = f"tritonserver does not answer: {error}", self.stall
            self._patience, self._problem = patience, problem
            if problem is None:
                self._well = time.monotonic()
            time.sleep(LOOK)

    def _stalled(self) -> tuple[str | None, float]:
        """Say whether work hangs, and how long that may be; by no clock that somebody sets."""
        if (told := self.triton.progress()) != self._progress:
            self._progress, self._moved = told, time.monotonic()
        silent = time.monotonic() - self._moved
        return None if silent < self.stall else f"no progress for {silent:.0f} s", self.stall

    def _failing(self) -> tuple[str | None, float]:
        """Make tiny volumes, now and then; say whether that fails, and how long it may."""
        if self._problem is not None or time.monotonic() - self._probed >= IDLE:
            for variant, size in self.variants.items():
                try:
                    self.triton.probe(variant, size, PROBE)
                except Refused as error:
                    if not self.triton.busy():  # else it waited behind a request before it
                        return f"cannot make a volume: {error}", FAILING
            self._probed = time.monotonic()
        return None, 0.0

    def metrics(self) -> str:
        """Give what Triton's own metrics do not know, as Prometheus reads it."""
        rows: list[tuple[str, str, dict[str, str], float]] = [
            ("maisi_server_ready", "gauge", {}, float(self.ready() is None)),
            ("maisi_server_stopping", "gauge", {}, float(self.stopping)),
            ("maisi_shared_memory_free_bytes", "gauge", {}, float(shutil.disk_usage(SHM).free)),
        ]
        stubs = self.triton.stubs()
        for pid, model in stubs.items():
            with suppress(psutil.Error):
                held = float(psutil.Process(pid).memory_info().rss)
                rows.append(("maisi_model_resident_bytes", "gauge", {"model": model}, held))
        for model in sorted({*stubs.values(), *self.restarts}):
            count = float(self.restarts[model])
            rows.append(("maisi_model_restarts_total", "counter", {"model": model}, count))
        if self._tls is not None and (expiry := expires(self._tls)) is not None:
            rows.append(("maisi_certificate_expiry_timestamp_seconds", "gauge", {}, expiry))
        lines, seen = [], set()
        for name, kind, labels, value in rows:
            if name not in seen:
                lines.append(f"# TYPE {name} {kind}")
                seen.add(name)
            inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
            lines.append(f"{name}{{{inside}}} {value:.15g}")
        return "\n".join(lines) + "\n"


def expires(address: Address) -> float | None:
    """Return when the certificate that gRPC serves ends, in seconds since the epoch.

    0 for one that has ended; None where nobody answers. What is served counts, and not what lies in
    the file: Triton reads that once.
    """
    where = (address.near, address.grpc)
    try:
        held = ssl.create_default_context(cadata=ssl.get_server_certificate(where, timeout=5))
        held.check_hostname = False
        held.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate vouches for itself
        held.set_alpn_protocols(["h2"])
        with socket.create_connection(where, 5) as plain, held.wrap_socket(plain) as secure:
            found = secure.getpeercert()
    except ssl.SSLCertVerificationError:
        return 0.0
    except OSError:
        return None
    return float(ssl.cert_time_to_seconds(str(found["notAfter"]))) if found else None
