"""Slowdown: how long two versions of one graph take, beside each other, and how sure that is.

One ratio of two medians says nothing of how it would come out next time. So the whole measurement is taken several
times, each with sessions of its own, old and new going first in turn, and the interval is that of these rounds:
what the machine's load, the order and the place in memory do to one round is in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Final, TypeAlias

from onnx_fleet.entities.regression_report import SlowdownRow
from onnx_fleet.measurement import timing
from onnx_fleet.measurement.output_drift import Pair
from onnx_fleet.processes.progress import Count

if TYPE_CHECKING:
    import numpy as np

    from onnx_fleet.graphs.text_inputs import TokenSpace

ROUNDS: Final = 5
_T_95: Final = 2.776
"""Student's t for a two-sided 95 % interval of ROUNDS values."""
_LEAST_RUNS: Final = 10
"""The least runs in a round that its budget pays for; one of them moves the median of fewer."""
_POINT_BUDGET_S: Final = 10.0

_Figures: TypeAlias = tuple[float, float, int]
"""The medians of the old and of the new version in one round, in milliseconds, and the runs of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A size to time a graph at."""

    batch_size: int
    length: int


def of_pair(
    pair: Pair,
    *,
    points: Sequence[Point],
    space: TokenSpace | None,
    threads: int,
    warmup_runs: int,
    timed_runs: int,
    count: Count,
) -> tuple[SlowdownRow, ...]:
    """Time both versions at every point.

    Args:
        timed_runs: about how many runs of each version are timed at a point, over all rounds.
        count: is told of the rounds of all pairs.
    Raises:
        ValidationFailed: a version does not load or run.
    """
    taken: dict[tuple[Point, str], list[_Figures]] = {}
    time_both = partial(
        timing.time_interleaved,
        warmup_runs=warmup_runs,
        timed_runs=max(_LEAST_RUNS, -(-timed_runs // ROUNDS)),
        budget_s=_POINT_BUDGET_S / ROUNDS,
        fewest_runs=timing.FEWEST_BLOCKS,
    )
    for number in count.each(range(ROUNDS)):
        for place, figures in _round(pair, points, space, threads, time_both, old_first=number % 2 == 0):
            taken.setdefault(place, []).append(figures)
    return tuple(_row(pair, point, phase, rounds) for (point, phase), rounds in taken.items())


def _round(
    pair: Pair,
    points: Sequence[Point],
    space: TokenSpace | None,
    threads: int,
    time_both: Callable[[Callable[[], object], Callable[[], object]], tuple[np.ndarray, np.ndarray]],
    *,
    old_first: bool,
) -> list[tuple[tuple[Point, str], _Figures]]:
    """Time both versions, with sessions that are gone when this returns: those of the next round need the memory.

    Args:
        time_both: times two calls in turns, and returns the times of each in milliseconds.
        old_first: whether the version in use goes first.
    """
    old, new = pair.open(threads=threads)
    timed = []
    for point in points:
        for work, feeds in pair.works(batch_size=point.batch_size, length=point.length, space=space):
            calls = partial(old.run, feeds), partial(new.run, feeds)
            times = time_both(*(calls if old_first else calls[::-1]))
            old_ms, new_ms = times if old_first else times[::-1]
            timed.append(((point, work.phase), (median(old_ms.tolist()), median(new_ms.tolist()), len(new_ms))))
    return timed


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ROUNDS ratios, and the ends of its 95 % interval."""
    logs = [math.log(ratio) for ratio in ratios]
    middle, spread = fmean(logs), _T_95 * stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - spread), math.exp(middle + spread)


def _row(pair: Pair, point: Point, phase: str, rounds: Sequence[_Figures]) -> SlowdownRow:
    ratio, low, high = interval([new_ms / old_ms for old_ms, new_ms, _ in rounds])
    return SlowdownRow(
        graph=pair.new.path,
        variant=pair.new.variant,
        phase=phase,
        batch_size=point.batch_size,
        sequence_length=point.length,
        rounds=len(rounds),
        runs=sum(runs for _, _, runs in rounds),
        old_latency_ms_p50=median(old_ms for old_ms, _, _ in rounds),
        new_latency_ms_p50=median(new_ms for _, new_ms, _ in rounds),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
    )
