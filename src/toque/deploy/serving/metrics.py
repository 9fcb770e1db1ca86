"""Counts and times in the text format of Prometheus, of one process or of several.

Several are not summed but labelled: a process that is started again begins at 0, which Prometheus
understands of each series by itself, and which in a sum would look like answers taken back.

Source: prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

_TIMES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

Sample = tuple[str, str, str]
"""What follows the name of its family, its labels as they are written, and its number."""

Families = dict[str, tuple[str, list[Sample]]]
"""The kind and the samples of each family, by its name; plain values, as JSON has them."""


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

    def samples(self) -> list[Sample]:
        """Its samples; buckets are cumulative."""
        total, samples = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            samples.append(("_bucket", f'le="{label}"', str(total)))
        return [*samples, ("_sum", "", f"{self._sum:.9g}"), ("_count", "", str(total))]


class Metrics:
    """What a process counts; safe to call from several threads."""

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

    def families(self, waiting: int) -> Families:
        """All that was counted."""
        with self._lock:
            responses: list[Sample] = [
                ("", f'route="{route}",status="{status}"', str(count))
                for (route, status), count in sorted(self._responses.items())
            ]
            reloads: list[Sample] = [
                ("", f'result="{result}"', str(self._reloads[result]))
                for result in ("done", "failed")
            ]
            return {
                "toque_responses_total": ("counter", responses),
                "toque_reloads_total": ("counter", reloads),
                "toque_waiting_images": ("gauge", [("", "", str(waiting))]),
                "toque_predict_seconds": ("histogram", self._seconds.samples()),
                "toque_batch_images": ("histogram", self._batches.samples()),
                "toque_model_seconds": ("histogram", self._model_seconds.samples()),
            }


def exposition(found: Mapping[str, Families]) -> str:
    """What GET /metrics answers.

    Args: found: by the label of the process, such as `worker="0"`; empty where there is one alone
    """
    lines: list[str] = []
    names = {name: kind for families in found.values() for name, (kind, _) in families.items()}
    for name, kind in names.items():
        lines.append(f"# TYPE {name} {kind}")
        for process, families in found.items():
            for suffix, labels, number in families.get(name, (kind, []))[1]:
                both = ",".join(part for part in (labels, process) if part)
                lines.append(f"{name}{suffix}{f'{{{both}}}' if both else ''} {number}")
    return "\n".join(lines) + "\n"
