"""What Kubernetes and Prometheus ask: /live, /ready and /metrics, of the server as a whole.

Triton calls a model ready whose process is dead or hangs. Here ready means that the last volume to
be made, a request's or a tiny one of our own, was made.
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

from server.address import Address
from server.host import SHM
from server.triton import Activity, Refused, Smallest, Triton

LOOK = 0.5  # seconds between two looks at a server
IDLE = 30.0  # seconds between two tiny volumes where nothing else is made
PAUSE = 5.0  # seconds between two while requests fail and tiny volumes do not
PROBE = 60.0  # seconds that a tiny volume may take
FAILING = 10.0  # seconds of failures after which tritonserver starts again


class Health:
    """What is known of a running server, looked at all the time; threads may share it.

    `variants`: name -> its smallest volume. `stall`: seconds without progress after which work
    counts as hanging. `address`: where gRPC speaks TLS, None where it does not.

    The smallest volumes are made every `IDLE` seconds while nothing is asked, at once when a
    request failed (at most every `PAUSE` seconds), and again and again while they fail. The server
    is not ready from the first that fails until all are made: what requests get does not count,
    as some may not need what fails. A smallest volume does not fail where requests of others leave
    it no room or no time. After `FAILING` seconds of failures tritonserver starts again.
    """

    def __init__(
        self,
        triton: Triton,
        variants: Mapping[str, Smallest],
        stall: float,
        address: Address | None,
    ):
        """Begin with a server that has just answered."""
        self.triton, self.variants, self.stall = triton, variants, stall
        self.restarts: Counter[str] = Counter()
        self.loading = ""  # what died and is being loaded again
        self.stopping = False
        self._tls = address
        self._problem: str | None = None  # as the last look found it
        self._hung = False  # whether that needs a new start
        self._failure: str | None = None  # of the last smallest volumes
        self._failed_since = self._failed_at = 0.0  # when the first and the last of them failed
        self._suspect = False  # a request failed since
        self._well = self._made = self._probed = self._moved = self._healed = time.monotonic()
        self._last = Activity(0, 0, 0, 0, 0)
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
        return self._problem if self._hung and not self.loading else None

    def healed(self) -> None:
        """Note that what was `loading` serves again."""
        self._problem, self._hung, self._failure = None, False, None
        self._well = self._made = self._moved = self._healed = time.monotonic()
        self.loading = ""

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
                problem, patience = self._look()
            except Exception as error:  # without this thread, what was last said would stay
                reason = f"{type(error).__name__}: {error}"
                problem, patience = f"tritonserver cannot be watched: {reason}", self.stall
            now = time.monotonic()
            if problem is None:
                self._well = now
            if problem is not None and problem == self._failure:
                self._hung = self._failed_at - self._failed_since > patience
            else:
                self._hung = now - self._well > patience
            self._problem = problem
            time.sleep(LOOK)

    def _look(self) -> tuple[str | None, float]:
        """Return what is wrong, and the seconds after which that needs a new start."""
        try:
            activity = self.triton.activity()
            if problem := self._stalled(activity):
                return problem, self.stall
            self._judge(activity)
        except Refused as error:
            return f"tritonserver does not answer: {error}", self.stall
        return self._failure, FAILING

    def _stalled(self, activity: Activity) -> str | None:
        """Say that work hangs; by no clock that somebody sets."""
        now = time.monotonic()
        if not activity.busy or activity.progress != self._last.progress:
            self._moved = now
        silent = now - self._moved
        return None if silent < self.stall else f"no progress for {silent:.0f} s"

    def _judge(self, activity: Activity) -> None:
        """Take requests that were answered and that failed into account, and probe where needed."""
        now, last = time.monotonic(), self._last
        self._last = activity
        if activity.voxels > last.voxels:
            self._made = now
        if activity.failed > last.failed:
            self._suspect = True
        idle = not activity.busy and now - self._made >= IDLE
        if self._failure or idle or (self._suspect and now - self._probed >= PAUSE):
            self._probe()

    def _probe(self) -> None:
        """Make the smallest volumes."""
        began = time.monotonic()
        self._suspect = False
        try:
            for variant, smallest in self.variants.items():
                self.triton.probe(variant, smallest, PROBE)
        except Refused as error:
            now = time.monotonic()
            # Others' work may leave ours no room or no time, which says nothing; nor does what
            # ended with an old process.
            others = self.triton.activity()
            waited = others.busy if error.unavailable else not error.answered and others.running
            if not waited and not self.loading and self._healed < began:
                if self._failure is None:
                    self._failed_since = now
                reason = str(error).replace(self.triton.probe_id, "probe")  # /ready is for anybody
                self._failure, self._failed_at = f"cannot make a volume: {reason}", now
        else:
            self._failure, self._made = None, time.monotonic()
        self._probed = time.monotonic()

    def metrics(self) -> str:
        """Give what Triton's own metrics do not know, as Prometheus reads it."""
        rows: list[tuple[str, str, dict[str, str], float]] = [
            ("maisi_server_ready", "gauge", {}, float(self.ready() is None)),
            ("maisi_server_stopping", "gauge", {}, float(self.stopping)),
            ("maisi_shared_memory_free_bytes", "gauge", {}, float(shutil.disk_usage(SHM).free)),
        ]
        stubs = self.triton.stubs()
        held: Counter[str] = Counter()  # a model may have several processes
        for pid, model in stubs.items():
            with suppress(psutil.Error):
                held[model] += psutil.Process(pid).memory_info().rss
        for model, size in held.items():
            rows.append(("maisi_model_resident_bytes", "gauge", {"model": model}, float(size)))
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
