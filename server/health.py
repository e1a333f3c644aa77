"""The health of the whole server, for Kubernetes and Prometheus.

Triton reports a model as ready even if its process is dead or hangs. Here, ready means that the
latest probe made its volumes and that no request hangs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping

from server.control import Activity, ControlError, Smallest
from server.triton import Triton

POLL = 0.5  # seconds between two polls of tritonserver
IDLE = 30.0  # seconds between two probes, which make the smallest volumes, of an idle server
PAUSE = 5.0  # seconds between two probes while requests fail and probes do not
PROBE = 60.0  # seconds that a smallest volume may take
FAILING = 10.0  # seconds of failures after which tritonserver is started again
SILENT = 60.0  # seconds without an answer after which tritonserver is started again


class Health:
    """The health of a running server, which a thread polls; the class is thread-safe.

    `variants` maps each variant to its smallest volume. After `stall` seconds without progress, a
    request counts as hanging.

    A probe makes the smallest volumes. There is a probe every `IDLE` seconds without requests, and
    at once when a request failed (at most every `PAUSE` seconds). While probes fail, they follow
    one another. From a failed probe to the next successful one, the server is not ready. Successful
    requests do not change this, because they may not need the part that fails. A probe does not
    count as failed if requests of clients leave it no memory or no time. A model that died and was
    loaded again counts as a failed probe: it can die at every volume.

    tritonserver is started again after `FAILING` seconds of failures, and after `SILENT` seconds
    without an answer, because a tritonserver that aborts can hang in its signal handler.
    """

    def __init__(self, triton: Triton, variants: Mapping[str, Smallest], stall: float):
        """Start to poll a server that has just made its smallest volumes."""
        self.triton, self.variants, self.stall = triton, variants, stall
        self.restarts: Counter[str] = Counter()
        self.loading = ""  # the model that died and is being loaded again
        self.stopping = False
        self._problem: str | None = None  # the result of the latest poll
        self._hanging = False  # whether the problem requires a restart of tritonserver
        self._failure: str | None = None  # the result of the latest probe
        self._first_failure = self._last_failure = 0.0  # times of probes, as all times below
        self._request_failed = False  # since the latest probe
        now = time.monotonic()
        self._ready_at = self._volume_at = self._probe_at = self._progress_at = now
        self._recovery_at = self._answer_at = now
        self._activity = Activity(0, 0, 0, 0, 0)
        threading.Thread(target=self._watch, daemon=True).start()

    def ready(self) -> str | None:
        """Return the reason why no request should be sent now; None if the server is ready."""
        if self.stopping:
            return "stopping: running requests finish first"
        if self.loading:
            return f"{self.loading} died and is being loaded again"
        return self._problem

    def hang(self) -> str | None:
        """Return why the running tritonserver has to be restarted; None if it need not be."""
        return self._problem if self._hanging and not self.loading else None

    def recovered(self, untested: str | None = None) -> None:
        """Record that the model that was `loading` serves again.

        `untested` is the reason why the server is not ready before the next successful probe. It is
        None after a start, which makes the smallest volumes.
        """
        self._problem, self._hanging, self._failure = untested, False, untested
        now = time.monotonic()
        self._volume_at = self._progress_at = self._recovery_at = self._answer_at = now
        self._first_failure = self._last_failure = now
        if untested is None:
            self._ready_at = now
        self.loading = ""

    def live(self) -> str | None:
        """Return the problem that a restart should have solved by now; None if there is none."""
        seconds = time.monotonic() - self._ready_at
        if self.stopping or self.loading or self._problem is None:
            return None
        if seconds <= self.stall + FAILING:
            return None
        return f"not ready for {seconds:.0f} s: {self._problem}"

    def _watch(self) -> None:
        while not self.stopping:
            recovery = self._recovery_at
            try:
                problem, hanging = self._poll()
            except Exception as error:  # continue, or the health would never change again
                reason = f"{type(error).__name__}: {error}"
                problem = f"tritonserver cannot be watched: {reason}"
                hanging = time.monotonic() - self._ready_at > self.stall
            if problem is None:
                self._ready_at = time.monotonic()
            if self._recovery_at == recovery:  # else the poll saw the model that died
                self._hanging, self._problem = hanging and not self.loading, problem
            time.sleep(POLL)

    def _poll(self) -> tuple[str | None, bool]:
        """Return the problem, and whether tritonserver has to be restarted."""
        try:
            activity = self.triton.control.activity()
            self._answer_at = time.monotonic()
            if problem := self._no_progress(activity):
                return problem, time.monotonic() - self._ready_at > self.stall
            self._probe_if_needed(activity)
        except ControlError as error:
            silence = time.monotonic() - self._answer_at
            return f"tritonserver does not answer: {error}", silence > SILENT
        failing = self._last_failure - self._first_failure if self._failure else 0.0
        return self._failure, failing > FAILING

    def _no_progress(self, activity: Activity) -> str | None:
        """Return a sentence if a request hangs, by the monotonic clock, else None."""
        now = time.monotonic()
        if not activity.busy or activity.progress != self._activity.progress:
            self._progress_at = now
        seconds = now - self._progress_at
        return None if seconds < self.stall else f"no progress for {seconds:.0f} s"

    def _probe_if_needed(self, activity: Activity) -> None:
        now, before = time.monotonic(), self._activity
        self._activity = activity
        if activity.voxels > before.voxels:
            self._volume_at = now
        if activity.failed > before.failed:
            self._request_failed = True
        idle = not activity.busy and now - self._volume_at >= IDLE
        if self._failure or idle or (self._request_failed and now - self._probe_at >= PAUSE):
            self._probe()

    def _probe(self) -> None:
        """Make the smallest volumes; a variant with a model that was unloaded need not make one."""
        start = time.monotonic()
        self._request_failed = False
        try:
            for variant, smallest in self.variants.items():
                try:
                    self.triton.control.probe(variant, smallest, PROBE)
                except ControlError:
                    if not self._is_unloaded(variant):
                        raise
        except ControlError as error:
            now = time.monotonic()
            # The failure does not count if clients' requests left the probe no memory or no time,
            # or if the probe began before a recovery.
            control = self.triton.control
            work = control.activity()
            crowded = work.busy if error.unavailable else not error.answered and work.running
            if not crowded and not self.loading and self._recovery_at < start:
                if self._failure is None:
                    self._first_failure = now
                reason = str(error).replace(control.probe_id, "probe")  # /ready is public
                self._failure, self._last_failure = f"cannot make a volume: {reason}", now
        else:
            if self._recovery_at < start:
                self._failure, self._volume_at = None, time.monotonic()
        self._probe_at = self._answer_at = time.monotonic()

    def _is_unloaded(self, variant: str) -> bool:
        """Return whether an operator has unloaded a model of a variant.

        A model whose process died is still READY for Triton.
        """
        try:
            states = self.triton.control.states()
        except ControlError:  # too busy to answer
            return False
        own = [state for model, state in states.items() if f"{model}.".startswith(f"{variant}.")]
        return any(state != "READY" for state in own)
