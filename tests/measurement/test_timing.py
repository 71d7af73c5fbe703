"""Turns, warm-up and intervals: arithmetic on recorded times and on calls that are counted, never a real ratio."""

from __future__ import annotations

import gc
import time
from functools import partial
from threading import Thread

import numpy as np
import pytest

from onnx_fleet.measurement.timing import (
    BLOCKS,
    FEWEST_BLOCKS,
    Timed,
    WarmUp,
    has_settled,
    interval,
    order_statistics,
    ratio_interval,
    take_turns,
    time_interleaved,
    warm_up,
)


@pytest.mark.parametrize(
    ("runs", "share", "ranks"),
    [
        (5, 0.5, None),
        (6, 0.5, (1, 6)),
        (20, 0.5, (6, 15)),
        (100, 0.5, (40, 61)),
        (71, 0.95, None),
        (72, 0.95, (64, 72)),
        (100, 0.95, (90, 100)),
    ],
)
def test_the_ranks_are_those_of_the_binomial_distribution(
    runs: int, share: float, ranks: tuple[int, int] | None
) -> None:
    """The median's stand in tables of non-parametric statistics; too few runs have none."""
    assert order_statistics(runs, share) == ranks


def test_an_interval_holds_the_true_percentile_as_often_as_it_says() -> None:
    """2,000 samples of 100 from a skewed distribution, as latencies are; the chances are exact, by the binomial."""
    samples = np.random.default_rng(0).lognormal(sigma=0.5, size=(2000, 100))
    for share, true, chance in ((0.5, 1.0, 0.965), (0.95, float(np.exp(0.5 * 1.6448536)), 0.983)):
        found = [interval(sample, share) for sample in samples]
        held = sum(low <= true <= high for low, high in filter(None, found))
        assert held / 2000 == pytest.approx(chance, abs=0.01)


def test_too_few_runs_have_no_interval() -> None:
    assert interval(np.arange(5.0), 0.5) is None
    assert interval(np.arange(50.0), 0.95) is None
    assert interval(np.array([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]), 0.5) == (1.0, 6.0)


def test_the_ratio_is_judged_turn_by_turn() -> None:
    """The machine becomes three times as slow for half of the turns: the times spread, their ratio does not."""
    slow = (1.0, 1.0, 1.0, 3.0, 3.0, 3.0)
    ours = _timed([np.array([2.0, 2.2, 2.1]) * factor for factor in slow])
    theirs = _timed([np.array([4.0, 4.4, 4.2]) * factor for factor in slow])

    assert ratio_interval(ours, theirs) == pytest.approx((0.5, 0.5))
    assert interval(ours.times_ms, 0.5) == pytest.approx((2.1, 6.3))


def test_the_ratio_of_fewer_turns_has_no_interval() -> None:
    few = _timed([np.array([1.0])] * 5)
    assert ratio_interval(few, few) is None


def test_all_take_turns_and_the_first_run_of_a_turn_is_not_counted() -> None:
    """Each call is longer than the 10 ms whose runs are not counted."""
    calls: list[str] = []

    def work(name: str) -> None:
        calls.append(name)
        time.sleep(0.011)

    timed = take_turns(
        *(partial(work, name) for name in "abc"),
        warmup_runs=3,
        timed_runs=14,
        between=lambda: calls.append("|"),
    )

    assert [len(each.times_ms) for each in timed] == [14, 14, 14]
    warm, *turns = "".join(calls).split("|")
    assert [warm.count(name) for name in "abc"] == [each.warm_up.runs for each in timed]
    assert turns == ["aaaabbbbcccc"] * 2 + ["aaabbbccc"] * 4


@pytest.mark.parametrize(("precision", "runs"), [(None, 40), (1e9, 12), (1e-9, 40)])
def test_no_more_runs_are_taken_than_the_precision_that_is_asked_for_needs(precision: float | None, runs: int) -> None:
    """A median is as precise as nobody wants it, or never as precise as somebody does."""
    timed = take_turns(
        partial(time.sleep, 0.03), partial(time.sleep, 0.02), warmup_runs=1, timed_runs=40, precision=precision
    )

    assert [len(each.times_ms) for each in timed] == [runs, runs]
    assert [sum(map(len, each.blocks_ms)) for each in timed] == [runs, runs]


@pytest.mark.parametrize(("call_s", "fewest", "most"), [(0.05, 12, 12), (0.005, 40, 120), (0.0, 1000, 1000)])
def test_runs_are_first_looked_at_when_they_have_taken_as_long_as_the_rests(
    call_s: float, fewest: int, most: int
) -> None:
    """Six turns of one call rest for 0.3 s: to look earlier would have short calls rest again for few more runs."""
    (timed,) = take_turns(partial(time.sleep, call_s), warmup_runs=1, timed_runs=1000, precision=1e9)

    assert fewest <= len(timed.times_ms) <= most


@pytest.mark.parametrize(("precision", "runs"), [(1e9, 6), (1e-9, 24)])
def test_slow_calls_are_looked_at_after_one_run_in_each_turn(precision: float, runs: int) -> None:
    timed = take_turns(partial(time.sleep, 0.1), warmup_runs=1, timed_runs=24, budget_s=30, precision=precision)

    assert [len(each.times_ms) for each in timed] == [runs]


def test_short_runs_are_counted_when_ten_milliseconds_of_them_have_gone_by() -> None:
    turns: list[list[float]] = []

    def work() -> None:
        if turns:
            turns[-1].append(time.perf_counter())

    (timed,) = take_turns(work, warmup_runs=1, timed_runs=6, between=lambda: turns.append([]))

    assert len(turns) == len(timed.blocks_ms) == BLOCKS
    assert min(turn[-1] - turn[0] for turn in turns) >= 0.0099


def test_every_run_of_a_call_that_takes_a_tenth_of_a_second_is_counted() -> None:
    calls: list[None] = []

    def work() -> None:
        calls.append(None)
        time.sleep(0.1)

    (timed,) = take_turns(work, warmup_runs=1, timed_runs=6, budget_s=0.0)

    assert len(calls) == timed.warm_up.runs + len(timed.times_ms)


def test_a_turn_begins_when_the_threads_of_the_one_before_have_stopped_spinning() -> None:
    """A pool's thread spins on for 50 ms behind each call of the first."""
    spinning_until = 0.0
    alone: list[bool] = []

    def spin() -> None:
        while time.perf_counter() < spinning_until:
            pass

    def first() -> None:
        nonlocal spinning_until
        idle = time.perf_counter() >= spinning_until
        spinning_until = time.perf_counter() + 0.05
        if idle:
            Thread(target=spin).start()

    take_turns(first, lambda: alone.append(time.perf_counter() >= spinning_until), warmup_runs=1, timed_runs=6)

    warm = alone.index(True)
    assert all(alone[warm:])


def test_a_slow_call_takes_fewer_runs_than_asked_for() -> None:
    ours, theirs = time_interleaved(lambda: None, lambda: None, warmup_runs=3, timed_runs=1000, budget_s=0.0)

    assert len(ours) == len(theirs) == BLOCKS


@pytest.mark.parametrize(("budget_s", "runs"), [(0.0, 3), (1.0, 4), (60.0, 7)])
def test_a_budget_may_pay_for_fewer_turns_but_three(budget_s: float, runs: int) -> None:
    """Two calls of a tenth of a second take two tenths a turn."""
    timed = take_turns(
        *[partial(time.sleep, 0.1)] * 2, warmup_runs=1, timed_runs=7, budget_s=budget_s, fewest_runs=FEWEST_BLOCKS
    )

    assert [len(each.times_ms) for each in timed] == [runs] * 2
    assert (interval(timed[0].times_ms, 0.5) is None) == (runs < BLOCKS)


def test_fewer_runs_than_turns_leave_turns_out() -> None:
    ours, theirs = time_interleaved(lambda: None, lambda: None, warmup_runs=1, timed_runs=2)

    assert len(ours) == len(theirs) == 2


def test_garbage_is_not_collected_while_the_clock_runs() -> None:
    states: list[bool] = []

    (timed,) = take_turns(lambda: states.append(gc.isenabled()), warmup_runs=1, timed_runs=6)

    assert states[: timed.warm_up.runs] == [True] * timed.warm_up.runs
    assert not any(states[timed.warm_up.runs :])
    assert gc.isenabled()


def test_warm_up_ends_when_the_median_stops_falling() -> None:
    falling, level = [9.0, 8.0, 7.0, 6.0, 5.0], [2.0, 2.1, 1.9, 2.0, 30.0]

    assert not has_settled(falling)
    assert not has_settled(falling + level)
    assert has_settled(falling + level + [2.05, 1.95, 1.98, 40.0, 2.0])


def test_warm_up_takes_the_runs_that_it_is_told_to_take_at_least() -> None:
    calls: list[None] = []

    found = warm_up(lambda: calls.append(None), least=300, budget_s=60)

    assert found.runs == len(calls) >= 300


def test_warm_up_says_when_time_ran_out_first() -> None:
    found = warm_up(lambda: None, least=3, budget_s=0.0)

    assert (found.runs, found.settled) == (1, False)


def _timed(blocks_ms: list[np.ndarray]) -> Timed:
    return Timed(warm_up=WarmUp(runs=10, settled=True, fastest_ms=1.0), blocks_ms=tuple(blocks_ms))
