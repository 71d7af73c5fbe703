"""The machine's noise: the verdict on recorded runs of the fixed work, and that the real one is taken as it says."""

from __future__ import annotations

from onnx_fleet.measurement.noise import MOST_SPREAD, MOST_WAITING, KernelRun, NoiseMeter, judge


def test_even_runs_on_cores_of_their_own_are_quiet() -> None:
    found = judge(tuple(_run(5.0 + n / 100, waiting=0.01) for n in range(20)), threads=2)

    assert found.verdict == "quiet"
    assert (found.kernel_runs, found.kernel_ms_fastest, found.threads) == (20, 5.0, 2)
    assert 0 < found.spread < 0.04


def test_what_comes_and_goes_is_noisy() -> None:
    found = judge(
        (*(_run(5.0, waiting=0.0) for _ in range(15)), *(_run(9.0, waiting=0.0) for _ in range(5))), threads=1
    )

    assert (found.verdict, found.waiting_share) == ("noisy", 0.0)
    assert found.spread == 0.8 > MOST_SPREAD


def test_a_neighbour_that_is_always_there_is_noisy_although_all_runs_are_alike() -> None:
    found = judge(tuple(_run(10.0, waiting=0.5) for _ in range(20)), threads=2)

    assert (found.verdict, found.spread) == ("noisy", 0.0)
    assert found.waiting_share == 0.5 > MOST_WAITING
    assert "50% of its time" in found.reason


def test_one_run_in_twenty_that_something_got_in_the_way_of_is_not_noise() -> None:
    found = judge((*(_run(5.0, waiting=0.0) for _ in range(19)), _run(20.0, waiting=0.0)), threads=1)

    assert found.verdict == "quiet"


def test_the_work_is_done_on_every_thread_and_the_first_time_is_not_counted() -> None:
    meter = NoiseMeter(threads=2)
    assert meter.noise() is None

    meter.probe()
    meter.probe()
    found = meter.noise()

    assert found is not None
    assert (found.kernel_runs, found.threads) == (6, 2)
    assert found.kernel_ms_fastest > 0
    assert 0 <= found.waiting_share < 1


def _run(ms: float, *, waiting: float) -> KernelRun:
    return KernelRun(slowest_ms=ms, wall_ms=2 * ms, cpu_ms=2 * ms * (1 - waiting))
