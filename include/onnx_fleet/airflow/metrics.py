"""The metrics of runs, sent in the way that Airflow sends its own: StatsD, Datadog or OpenTelemetry, by ``[metrics]``.

No tag has the id of a model or a run: a backend keeps a series for each value. How long tasks wait is not measured
here, because Airflow does so itself: ``task.scheduled_duration`` and ``pool.queued_slots``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from airflow.sdk.observability import stats

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.store import ObjectStore
from onnx_fleet.store.metered import MeteredStore, Way


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric, under the name that stands behind Airflow's own prefix."""

    name: str
    kind: Literal["timer", "counter"]
    tags: tuple[str, ...]

    def add(self, count: int, **tags: str) -> None:
        """Add to a counter."""
        stats.incr(self.name, count, tags=tags)


STEP: Final = Metric(name="onnx_fleet.step.duration", kind="timer", tags=("step", "family"))
EXPORTS: Final = Metric(name="onnx_fleet.exports", kind="counter", tags=("family", "traced"))
FAILURES: Final = Metric(name="onnx_fleet.failures", kind="counter", tags=("step", "error"))
MODELS: Final = Metric(name="onnx_fleet.models", kind="counter", tags=("dag", "state"))
AUDITS: Final = Metric(name="onnx_fleet.audits", kind="counter", tags=("verdict",))
FINDINGS: Final = Metric(name="onnx_fleet.watch.findings", kind="counter", tags=("state",))
BYTES: Final = Metric(name="onnx_fleet.store.bytes", kind="counter", tags=("way",))
METRICS: Final = (STEP, EXPORTS, FAILURES, MODELS, AUDITS, FINDINGS, BYTES)
"""Every metric; the table of docs/operations.md says what each is."""


def step_ended(step: str, *, family: str, seconds: float) -> None:
    """Tell how long a step took that did not fail."""
    stats.timing(STEP.name, timedelta(seconds=seconds), tags={"step": step, "family": family})


def exported(stage: Stage) -> None:
    """Tell how the graphs of a stage came to be: those that were ``cached`` needed no torch."""
    EXPORTS.add(1, family=stage.item.family, traced=stage.read_export().traced)


def failed(step: str, error: Exception) -> None:
    """Tell that a try failed.

    Args:
        step: the step, or the id of a task that is none.
    """
    FAILURES.add(1, step=step.rpartition(".")[2], error=type(error).__name__)


def ended(metric: Metric, tag: str, values: Iterable[str], **tags: str) -> None:
    """Tell how many of the models, bundles or findings of a report ended in each way.

    Args:
        tag: the tag that has the way.
        values: the ways, one for each.
    """
    for value, count in Counter(values).items():
        metric.add(count, **{tag: value}, **tags)


def metered(store: ObjectStore) -> ObjectStore:
    """Return the store with a count of the bytes of its large files."""

    def count(way: Way, size_bytes: int) -> None:
        BYTES.add(size_bytes, way=way)

    return MeteredStore(store=store, count=count)
