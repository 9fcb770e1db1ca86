"""Counts and times in the text format of Prometheus.

Source: prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter

_TIMES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Histogram:
    """How many values lay below each of some bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """The samples; buckets are cumulative."""
        total, lines = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'{name}_bucket{{le="{label}"}} {total}')
        return [*lines, f"{name}_sum {self._sum:.9g}", f"{name}_count {total}"]


class Metrics:
    """What the server counts; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._responses: Counter[tuple[str, int]] = Counter()
        self._reloads: Counter[str] = Counter()
        self._seconds = Histogram(_TIMES_S)
        self._batches = Histogram(_BATCHES)
        self._model_seconds = Histogram(_TIMES_S)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One response; `route` is one of the few the server has, never what a client sent."""
        with self._lock:
            self._responses[route, status] += 1
            if route == "/predict":
                self._seconds.add(seconds)

    def batch(self, images: int, seconds: float) -> None:
        """One batch through the model."""
        with self._lock:
            self._batches.add(images)
            self._model_seconds.add(seconds)

    def reloaded(self, result: str) -> None:
        """One attempt to load a newer model: "done" or "failed"."""
        with self._lock:
            self._reloads[result] += 1

    def text(self, waiting: int) -> str:
        """All of it, as GET /metrics answers."""
        with self._lock:
            lines = ["# TYPE toque_responses_total counter"]
            lines += [
                f'toque_responses_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self._responses.items())
            ]
            lines.append("# TYPE toque_reloads_total counter")
            lines += [
                f'toque_reloads_total{{result="{result}"}} {self._reloads[result]}'
                for result in ("done", "failed")
            ]
            lines += ["# TYPE toque_waiting_images gauge", f"toque_waiting_images {waiting}"]
            for name, histogram in (
                ("toque_predict_seconds", self._seconds),
                ("toque_batch_images", self._batches),
                ("toque_model_seconds", self._model_seconds),
            ):
                lines += [f"# TYPE {name} histogram", *histogram.lines(name)]
        return "\n".join(lines) + "\n"
