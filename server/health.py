"""The health of the server as a whole, which Kubernetes and Prometheus ask for.

Triton calls a model ready whose process is dead or hangs. Here ready means that the server's
latest probe made its volumes and that no work hangs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping

from server.control import Activity, ControlError, Smallest
from server.triton import Triton

POLL = 0.5  # seconds between two polls of tritonserver
IDLE = 30.0  # seconds between two probes, of the smallest volumes, where nothing else is made
PAUSE = 5.0  # seconds between two probes while requests fail and probes do not
PROBE = 60.0  # seconds that a smallest volume may take
FAILING = 10.0  # seconds of failures after which tritonserver starts again
SILENT = 60.0  # seconds without any answer after which tritonserver starts again


class Health:
    """The health of a running server, which a thread polls; threads may share it.

    `variants`: name -> its smallest volume. `stall`: seconds without progress after which work
    counts as hanging.

    A probe makes the smallest volumes. There is one every `IDLE` seconds without requests, at once
    when a request failed (at most every `PAUSE` seconds), and one after the other while they fail.
    The server is not ready from a probe that fails until one that succeeds: requests do not count
    here, as some may not need what fails. A probe has not failed where requests of clients leave it
    no memory or no time. After `FAILING` seconds of failures tritonserver starts again, and after
    `SILENT` seconds without an answer: a tritonserver that aborts can hang in its signal handler.
    """

    def __init__(self, triton: Triton, variants: Mapping[str, Smallest], stall: float):
        """Begin with a server that has just made its smallest volumes."""
        self.triton, self.variants, self.stall = triton, variants, stall
        self.restarts: Counter[str] = Counter()
        self.loading = ""  # the model that died and is being loaded again
        self.stopping = False
        self._problem: str | None = None  # of the latest poll
        self._hanging = False  # whether the problem needs a new start of tritonserver
        self._failure: str | None = None  # of the latest probe
        self._first_failure = self._last_failure = 0.0  # times of probes, as all times below
        self._request_failed = False  # since the latest probe
        now = time.monotonic()
        self._ready_at = self._volume_at = self._probe_at = self._progress_at = now
        self._recovery_at = self._answer_at = now
        self._activity = Activity(0, 0, 0, 0, 0)
        threading.Thread(target=self._watch, daemon=True).start()

    def ready(self) -> str | None:
        """Return why no request should be sent here now; None: it may."""
        if self.stopping:
            return "stopping: running requests finish first"
        if self.loading:
            return f"{self.loading} died and is being loaded again"
        return self._problem

    def hang(self) -> str | None:
        """Return why tritonserver has to start again though it runs; None: it need not."""
        return self._problem if self._hanging and not self.loading else None

    def recovered(self) -> None:
        """Take note that what was `loading` serves again."""
        self._problem, self._hanging, self._failure = None, False, None
        now = time.monotonic()
        self._ready_at = self._volume_at = self._progress_at = now
        self._recovery_at = self._answer_at = now
        self.loading = ""

    def live(self) -> str | None:
        """Return the problem that a new start should have solved by now; None: there is none."""
        seconds = time.monotonic() - self._ready_at
        if self.stopping or self.loading or self._problem is None:
            return None
        if seconds <= self.stall + FAILING:
            return None
        return f"not ready for {seconds:.0f} s: {self._problem}"

    def _watch(self) -> None:
        while not self.stopping:
            try:
                problem, hanging = self._poll()
            except Exception as error:  # this thread has to continue, or nothing would change
                reason = f"{type(error).__name__}: {error}"
                problem = f"tritonserver cannot be watched: {reason}"
                hanging = time.monotonic() - self._ready_at > self.stall
            if problem is None:
                self._ready_at = time.monotonic()
            self._hanging, self._problem = hanging and not self.loading, problem
            time.sleep(POLL)

    def _poll(self) -> tuple[str | None, bool]:
        """Return the problem, and whether tritonserver has to start again."""
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
        """Return a sentence if work hangs, by the monotonic clock, else None."""
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
        """Make the smallest volumes."""
        start = time.monotonic()
        self._request_failed = False
        try:
            for variant, smallest in self.variants.items():
                self.triton.control.probe(variant, smallest, PROBE)
        except ControlError as error:
            now = time.monotonic()
            # It does not count where clients' requests left it no memory or no time, nor where it
            # began before a recovery.
            control = self.triton.control
            work = control.activity()
            crowded = work.busy if error.unavailable else not error.answered and work.running
            if not crowded and not self.loading and self._recovery_at < start:
                if self._failure is None:
                    self._first_failure = now
                reason = str(error).replace(control.probe_id, "probe")  # /ready is for anybody
                self._failure, self._last_failure = f"cannot make a volume: {reason}", now
        else:
            self._failure, self._volume_at = None, time.monotonic()
        self._probe_at = time.monotonic()
