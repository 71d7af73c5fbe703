"""Timing: calls that take turns, each warm before the clock counts, and how sure a percentile is. numpy when called."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from onnx_fleet.entities.latency_report import Interval

if TYPE_CHECKING:
    import numpy as np


CONFIDENCE = 0.95
POINT_BUDGET_S = 10.0
"""The time budget of two calls at one point in seconds; calls that need more take fewer runs than were asked for."""
BLOCKS = 6
"""The number of blocks: six values are the fewest whose range encloses the median with 95 % (1 - 2 / 2^6 is 96.9 %)."""
FEWEST_BLOCKS = 3
"""The fewest blocks within a stated time: the median of three runs still hides one that was disturbed."""
WINDOW = 5
"""The number of warm-up runs that are looked at together: their median hides one or two runs that were disturbed."""
STILL_FALLING = 0.02
"""The share by which a window's median must be less than the last one's to count as faster."""
MOST_WARMUP_RUNS = 200
_WARMUP_SHARE = 1 / 4
"""The share of a point's time that warm-up may take."""
_LOOK_S = 0.01
_BUSY_SHARE = 0.2
"""The share of one core below which a process counts as waiting."""
_MOST_REST_S = 0.5
_TURN_REST_S = 0.05
"""About how long a turn waits for the threads of the one before it."""
_SETTLE_S = 0.01
_SLOW_MS = 100.0
"""The length of a call, in milliseconds, from which on the pool that wakes up in its first run is lost in its noise."""
_SHORT_WARMUP_S = 0.2
"""The most time in which a call becomes warm of which only a few runs are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """The warm-up runs of a call."""

    runs: int
    settled: bool
    """Whether the runs had stopped becoming faster; False where time ran out first."""
    fastest_ms: float

    @property
    def is_slow(self) -> bool:
        """Whether a call takes so long that its first run after a rest is like the others."""
        return self.fastest_ms >= _SLOW_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One of the calls that took turns."""

    warm_up: WarmUp
    blocks_ms: tuple[np.ndarray, ...]
    """The times of each turn, in the order in which they ran: float64 [runs] each, in milliseconds."""

    @property
    def times_ms(self) -> np.ndarray:
        """The times of all turns: float64 [runs], in milliseconds."""
        import numpy as np

        return np.concatenate(self.blocks_ms)


def take_turns(
    *calls: Callable[[], object],
    warmup_runs: int,
    timed_runs: int,
    budget_s: float = POINT_BUDGET_S,
    fewest_runs: int = BLOCKS,
    precision: float | None = None,
    between: Callable[[], None] | None = None,
) -> tuple[Timed, ...]:
    """Time calls in turns, in blocks, so that a change of the machine's load meets all of them.

    Each block begins when the threads of the call before it have stopped spinning; its first run is not counted, nor
    are those of its first 10 ms: a pool that slept wakes up in them. Of a call that takes a tenth of a second every run
    is counted.

    Args:
        warmup_runs: the least warm-up runs of each call; more follow until it stops becoming faster.
        timed_runs: the most timed runs of each call; fewer where the budget is too small.
        budget_s: about how long two calls may take; more calls may take more in proportion.
        fewest_runs: the runs that each call has whatever the budget is; with fewer than six nothing has an interval.
        precision: the half-width of each median's interval, as a share of the median, at which no more runs are taken;
            None takes all.
        between: called before each turn, while nothing of this process runs.
    """
    import numpy as np

    budget_s *= len(calls) / 2
    rest()
    warm = [warm_up(call, least=warmup_runs, budget_s=budget_s * _WARMUP_SHARE / len(calls)) for call in calls]
    round_s = sum(each.fastest_ms for each in warm) / 1e3 or 1e-9
    settling_s = sum(each.fastest_ms for each in warm if not each.is_slow) / 1e3
    runs = min(timed_runs, _affordable(budget_s, round_s=round_s, settling_s=settling_s, fewest=fewest_runs))
    least = BLOCKS if all(each.is_slow for each in warm) else 2 * BLOCKS
    first_runs = max(least, int(BLOCKS * len(calls) * _TURN_REST_S / round_s))  # which take as long as the rests do
    blocks: list[list[np.ndarray]] = [[] for _ in calls]
    deadline = time.perf_counter() + budget_s
    with _no_garbage_collection():
        for sizes in _rounds(runs, first=runs if precision is None else first_runs):
            for size in sizes:
                if between:
                    rest()
                    between()
                for call, warmed, taken in zip(calls, warm, blocks, strict=True):
                    rest()
                    if not warmed.is_slow:
                        _settle(call)
                    taken.append(np.array([_time_ms(call) for _ in range(size)]))
            if precision is not None and (
                time.perf_counter() >= deadline or all(_is_narrow(np.concatenate(taken), precision) for taken in blocks)
            ):
                break
    return tuple(Timed(warm_up=each, blocks_ms=tuple(taken)) for each, taken in zip(warm, blocks, strict=True))


def _affordable(budget_s: float, *, round_s: float, settling_s: float, fewest: int) -> int:
    """Return how many runs of each call a budget pays for, as many in every block where it pays for all blocks.

    Args:
        round_s: what one run of every call takes.
        settling_s: what the runs that are not counted take in each block.
    """
    in_a_block = int((budget_s / BLOCKS - settling_s) / round_s)
    if in_a_block >= 1:
        return BLOCKS * in_a_block
    return max(fewest, min(BLOCKS, int(budget_s / (round_s + settling_s))))


def _rounds(runs: int, *, first: int) -> Iterator[list[int]]:
    """Yield the sizes of the blocks of each round, after which to look whether the runs suffice.

    Each round makes four times as many of them: every block costs a rest and runs that are not counted.
    """
    done, until = 0, first
    while done < runs:
        until = min(until, runs)
        each, left = divmod(until - done, BLOCKS)
        yield [each + (number < left) for number in range(BLOCKS) if each or number < left]
        done, until = until, 4 * until


def _is_narrow(times_ms: np.ndarray, precision: float) -> bool:
    """Say whether the median's interval reaches no further than a share of it to either side, by half its width."""
    found = interval(times_ms, 0.5)
    return found is not None and (found[1] - found[0]) / 2 <= precision * percentile(times_ms, 0.5)


def few(call: Callable[[], object], *, runs: int) -> np.ndarray:
    """Time a few runs of a call by itself, from rest and once it is warm; returns float64 [runs], in milliseconds."""
    import numpy as np

    rest()
    warm_up(call, least=1, budget_s=_SHORT_WARMUP_S)
    with _no_garbage_collection():
        return np.array([_time_ms(call) for _ in range(runs)])


def rest() -> None:
    """Wait until this process does nothing, half a second at most.

    The threads of a pool go on spinning behind a call, so as to be there for the next one: onnxruntime's for 35 ms. On
    as many cores as there are threads they take half of the next session's time, and more of its slowest runs'.
    """
    deadline = time.perf_counter() + _MOST_REST_S
    while time.perf_counter() < deadline:
        used_s, since = time.process_time(), time.perf_counter()
        time.sleep(_LOOK_S)
        if time.process_time() - used_s < _BUSY_SHARE * (time.perf_counter() - since):
            return


def time_interleaved(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    warmup_runs: int,
    timed_runs: int,
    budget_s: float = POINT_BUDGET_S,
    fewest_runs: int = BLOCKS,
) -> tuple[np.ndarray, np.ndarray]:
    """Time two calls in turns; returns float64 [runs] of each, in milliseconds, in the order in which they ran."""
    one, other = take_turns(
        first, second, warmup_runs=warmup_runs, timed_runs=timed_runs, budget_s=budget_s, fewest_runs=fewest_runs
    )
    return one.times_ms, other.times_ms


def warm_up(call: Callable[[], object], *, least: int, budget_s: float) -> WarmUp:
    """Run a call until the median of a window is no less than that of the window before it.

    Args:
        least: the number of runs that are made in any case.
        budget_s: the seconds after which it stops although runs still become faster.
    """
    deadline = time.perf_counter() + budget_s
    times_ms: list[float] = []
    while True:
        times_ms.append(_time_ms(call))
        settled = has_settled(times_ms)
        enough = len(times_ms) >= least and (settled or len(times_ms) >= MOST_WARMUP_RUNS)
        if enough or time.perf_counter() >= deadline:
            return WarmUp(runs=len(times_ms), settled=settled, fastest_ms=min(times_ms))


def has_settled(times_ms: list[float]) -> bool:
    """Say whether the last window is no faster than the one before it."""
    if len(times_ms) < 2 * WINDOW:
        return False
    before, last = sorted(times_ms[-2 * WINDOW : -WINDOW]), sorted(times_ms[-WINDOW:])
    return last[WINDOW // 2] >= before[WINDOW // 2] * (1 - STILL_FALLING)


def percentile(times: np.ndarray, share: float) -> float:
    """Return a percentile by linear interpolation (type 7 of Hyndman and Fan 1996), in the unit of the times.

    Args:
        times: float64 [runs].
        share: 0.5 is the median.
    """
    import numpy as np

    return float(np.quantile(times, share, method="linear"))


def interval(times: np.ndarray, share: float) -> Interval | None:
    """Return the interval that encloses a percentile of all such runs, with a probability of 95 % or a little more.

    Args:
        times: float [runs], which are taken to be independent.
        share: 0.5 is the median.

    Returns:
        Two of the times; None where the runs are too few to enclose it: 6 for a median, 72 for p95.
    """
    import numpy as np

    ranks = order_statistics(len(times), share)
    if ranks is None:
        return None
    ordered = np.sort(times)
    return float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])


@cache
def order_statistics(runs: int, share: float) -> tuple[int, int] | None:
    """Return the ranks, from 1, of the two times that enclose a percentile: at most 2.5 % lies beyond either.

    How many of the runs stay below the percentile is binomial, so this is exact and asks nothing of the distribution.
    """
    beyond = (1 - CONFIDENCE) / 2
    chances = [
        math.exp(
            math.lgamma(runs + 1)
            - math.lgamma(below + 1)
            - math.lgamma(runs - below + 1)
            + below * math.log(share)
            + (runs - below) * math.log1p(-share)
        )
        for below in range(runs + 1)
    ]
    low, high = _tail(chances, beyond), runs + 1 - _tail(chances[::-1], beyond)
    return (low, high) if low >= 1 and high <= runs else None


def ratio_interval(first: Timed, second: Timed) -> Interval | None:
    """Return an interval of the ratio of two calls' medians, turn by turn: what slows both does not widen it.

    Turns are further apart than runs are, and what lasts for some runs does not make this one too narrow.
    """
    import numpy as np

    medians = zip(first.blocks_ms, second.blocks_ms, strict=True)
    return interval(np.array([np.median(ours) / np.median(theirs) for ours, theirs in medians]), 0.5)


def _tail(chances: list[float], most: float) -> int:
    """Return how many of the first chances add up to no more than ``most``."""
    total = 0.0
    for count, chance in enumerate(chances):
        total += chance
        if total > most:
            return count
    return len(chances)


def _settle(call: Callable[[], object]) -> None:
    """Run a call at least once, until its block may be timed."""
    until = time.perf_counter() + _SETTLE_S
    call()
    while time.perf_counter() < until:
        call()


def _time_ms(call: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e6


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
