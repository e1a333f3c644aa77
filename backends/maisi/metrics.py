"""What an operator counts, among Triton's own metrics; docs/operations.md explains them."""

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
    "maisi_redraws_total": "Volumes made anew as they did not follow their mask",
    "maisi_unfaithful_total": "Volumes given back that do not follow their mask",
}
_GAUGES = {
    "maisi_requests_running": "Requests that a model works on",
    "maisi_requests_waiting": "Requests that wait for their turn",
    "maisi_progress_timestamp_seconds": "When work last went on, seconds since the epoch",
}


class Metrics:
    """The metrics of one model of a variant."""

    def __init__(self, variant: str, model: str) -> None:
        """Show this model's gauges at once; a counter appears when it first counts."""
        self._variant, self._model = variant, model
        self._running = 0
        self._lock = threading.Lock()  # two threads at one metric of Triton 2.51 crash it
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=told, kind=kind)
            for table, kind in (
                (_COUNTERS, pb_utils.MetricFamily.COUNTER),
                (_GAUGES, pb_utils.MetricFamily.GAUGE),
            )
            for name, told in table.items()
        }
        self._kept: dict[tuple[str, ...], Any] = {}
        for name in _GAUGES:
            self._set(name, 0)  # also where a process died that had counted

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a request as running within."""
        self.progress()
        self._add("maisi_requests_running", 1, model=self._model)
        try:
            yield
        finally:
            self._add("maisi_requests_running", -1, model=self._model)

    def queue(self, running: int, waiting: int) -> None:
        """Tell how many requests run and how many wait; one that begins to run is progress."""
        if running > self._running:
            self.progress()
        self._running = running
        self._set("maisi_requests_running", running)
        self._set("maisi_requests_waiting", waiting)

    def progress(self) -> None:
        """Note that work goes on."""
        self._set("maisi_progress_timestamp_seconds", time.time())

    def step(self) -> None:
        """Count a call of a flow network."""
        self._add("maisi_steps_total", 1)
        self.progress()

    def ended(self, outcome: str) -> None:
        """Count a request: done, invalid, cancelled, unavailable or failed."""
        self._add("maisi_requests_total", 1, outcome=outcome)

    def volume(self, report: Mapping[str, Any]) -> None:
        """Count a volume that was made, by its report."""
        self._add("maisi_voxels_total", math.prod(report["size"]))
        for stage, seconds in report["seconds"].items():
            if stage != "total":
                self._add("maisi_stage_seconds_total", seconds, stage=stage)
        if len(attempts := report.get("attempts", [])) > 1:
            self._add("maisi_redraws_total", len(attempts) - 1)
        if report.get("fidelity", {}).get("faithful") is False:
            self._add("maisi_unfaithful_total", 1)

    def _set(self, gauge: str, value: float) -> None:
        with self._lock:
            self._metric(gauge, model=self._model).set(value)

    def _add(self, name: str, more: float, **labels: str) -> None:
        with self._lock:
            self._metric(name, **labels).increment(more)

    def _metric(self, name: str, **labels: str) -> Any:
        key = (name, *labels.values())
        if key not in self._kept:
            self._kept[key] = self._families[name].Metric(
                labels={"variant": self._variant, **labels}
            )
        return self._kept[key]
