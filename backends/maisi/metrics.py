"""Metrics of requests among Triton's metrics; docs/how-to/operations.md describes them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import triton_python_backend_utils as pb_utils

_COUNTERS = {
    "maisi_requests_total": "Requests that ended, by outcome",
    "maisi_steps_total": "Calls of a flow network",
    "maisi_stage_seconds_total": "Seconds spent on volumes that were made, by stage",
    "maisi_voxels_total": "Voxels of volumes that were made",
    "maisi_redraws_total": "Volumes sampled again because they did not follow their mask",
    "maisi_measured_total": "Volumes returned that were compared with their mask",
    "maisi_unfaithful_total": "Volumes returned that do not follow their mask",
}
_GAUGES = {
    "maisi_requests_running": "Requests that a model is working on",
    "maisi_requests_waiting": "Requests that wait for their turn",
    "maisi_progress_timestamp_seconds": "Time of the last progress, seconds since the epoch",
}


class Metrics:
    """The metrics of one model of a variant."""

    def __init__(self, variant: str, model: str) -> None:
        """Publish this model's gauges at once; a counter is published at its first increment."""
        self._variant, self._model = variant, model
        self._running = 0
        self._marked = -math.inf  # time of the last mark of progress, of time.monotonic()
        self._lock = threading.Lock()  # two threads at one metric of Triton 2.51 crash it
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=kind)
            for table, kind in (
                (_COUNTERS, pb_utils.MetricFamily.COUNTER),
                (_GAUGES, pb_utils.MetricFamily.GAUGE),
            )
            for name, description in table.items()
        }
        self._metrics: dict[tuple[str, ...], Any] = {}
        for name in _GAUGES:
            self._set(name, 0)  # an earlier process that died may have set another value

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a request as running during the block."""
        self.mark_progress()
        self._add("maisi_requests_running", 1, model=self._model)
        try:
            yield
        finally:
            self._add("maisi_requests_running", -1, model=self._model)

    def set_queue(self, running: int, waiting: int) -> None:
        """Set the numbers of running and waiting requests; a start of a request is progress."""
        if running > self._running:
            self.mark_progress()
        self._running = running
        self._set("maisi_requests_running", running)
        self._set("maisi_requests_waiting", waiting)

    def mark_progress(self) -> None:
        """Set the time of the last progress to now, at most once a second."""
        if (now := time.monotonic()) - self._marked >= 1:  # a call of Triton's blocks
            self._marked = now
            self._set("maisi_progress_timestamp_seconds", time.time())

    def count_step(self) -> None:
        """Count a call of a flow network."""
        self._add("maisi_steps_total", 1)
        self.mark_progress()

    def count_request(self, outcome: str) -> None:
        """Count the end of a request: done, invalid, cancelled, unavailable or failed."""
        self._add("maisi_requests_total", 1, outcome=outcome)

    def count_volume(self, report: Mapping[str, Any]) -> None:
        """Count a volume with the values of its report."""
        self._add("maisi_voxels_total", math.prod(report["size"]))
        for stage, seconds in report["seconds"].items():
            if stage != "total":
                self._add("maisi_stage_seconds_total", seconds, stage=stage)
        if len(attempts := report.get("attempts", [])) > 1:
            self._add("maisi_redraws_total", len(attempts) - 1)
        faithful = report.get("fidelity", {}).get("faithful")
        if faithful is not None:
            self._add("maisi_measured_total", 1)
        if faithful is False:
            self._add("maisi_unfaithful_total", 1)

    def _set(self, gauge: str, value: float) -> None:
        with self._lock:
            self._metric(gauge, model=self._model).set(value)

    def _add(self, name: str, amount: float, **labels: str) -> None:
        with self._lock:
            self._metric(name, **labels).increment(amount)

    def _metric(self, name: str, **labels: str) -> Any:
        key = (name, *labels.values())
        if key not in self._metrics:
            self._metrics[key] = self._families[name].Metric(
                labels={"variant": self._variant, **labels}
            )
        return self._metrics[key]
