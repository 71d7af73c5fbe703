from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from fixtures import steps
from fixtures.steps import Meal, Order
from onnx_fleet.errors import ModelGated, StepCrashed, StepTimedOut, WorkerOutOfResources
from onnx_fleet.processes import isolation, machine_lock, progress
from onnx_fleet.processes.isolation import Limits, Outcome
from onnx_fleet.processes.progress import Progress

MB = 1 << 20

Run = Callable[..., Outcome[Meal]]


@pytest.fixture(autouse=True)
def _steps_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "step.log"


@pytest.fixture(params=[False, True], ids=["interpreter", "fork"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both kinds of process keep the same promises."""
    return partial(isolation.run, with_torch=request.param)


def test_the_result_comes_back_from_another_process(run: Run, log: Path) -> None:
    outcome = run(steps.cook, Order(what="soup"), limits=Limits(), log=log)

    assert outcome.value.what == "SOUP"
    assert outcome.value.pid != os.getpid()
    assert outcome.duration_s > 0


def test_what_the_step_prints_is_in_its_log_and_an_earlier_step_is_kept(run: Run, log: Path) -> None:
    run(steps.cook, Order(what="soup"), limits=Limits(), log=log)
    run(steps.cook, Order(what="bread"), limits=Limits(), log=log)

    assert log.read_text() == "cooking soup\ncooking bread\n"


def test_whoever_listens_is_told_how_far_the_step_is(run: Run, log: Path) -> None:
    heard: list[Progress] = []
    with progress.listening(heard.append):
        run(steps.count, Order(what="", size=3), limits=Limits(), log=log)
    run(steps.count, Order(what="", size=5), limits=Limits(), log=log)

    assert heard[-1] == Progress(done=3, total=3, unit="courses")
    assert str(heard[-1]) == "3 of 3 courses"


def test_a_step_that_cannot_say_how_far_it_is_goes_on(run: Run, log: Path) -> None:
    heard: list[Progress] = []
    with progress.listening(heard.append):
        order = Order(what="", size=3)
        outcome = run(steps.count_where_no_file_can_be_written, order, limits=Limits(), log=log)

    assert outcome.value.what == "3 courses"
    assert heard == []


def test_peak_memory_is_the_steps_own(run: Run, log: Path) -> None:
    small = run(steps.use_memory, Order(what="", size=0), limits=Limits(), log=log)
    large = run(steps.use_memory, Order(what="", size=200 * MB), limits=Limits(), log=log)

    assert 190 * MB < large.peak_memory_bytes - small.peak_memory_bytes < 230 * MB


def test_our_own_error_is_raised_again_as_its_class(run: Run, log: Path) -> None:
    with pytest.raises(ModelGated, match="acme/secret: ask its owner"):
        run(steps.refuse, Order(what="acme/secret"), limits=Limits(), log=log)


def test_a_foreign_error_names_itself_and_shows_the_end_of_the_log(run: Run, log: Path) -> None:
    with pytest.raises(StepCrashed, match="ZeroDivisionError: dividing x") as caught:
        run(steps.stumble, Order(what="x"), limits=Limits(), log=log)

    assert 'raise ZeroDivisionError(f"dividing' in str(caught.value)
    assert str(log) in str(caught.value)


def test_a_native_crash_is_named_by_its_signal(run: Run, log: Path) -> None:
    with pytest.raises(StepCrashed, match="SIGSEGV"):
        run(steps.segfault, Order(what="x"), limits=Limits(), log=log)


def test_a_kill_from_outside_may_succeed_on_another_worker(run: Run, log: Path) -> None:
    with pytest.raises(WorkerOutOfResources, match="killed from outside"):
        run(steps.be_killed, Order(what="x"), limits=Limits(), log=log)


def test_an_exit_without_an_answer_is_a_crash(run: Run, log: Path) -> None:
    with pytest.raises(StepCrashed, match="exit status 7"):
        run(steps.leave, Order(what="x"), limits=Limits(), log=log)


def test_a_hang_ends_at_the_time_limit_with_everything_that_it_started(run: Run, log: Path, tmp_path: Path) -> None:
    grandchild = tmp_path / "pid"
    with pytest.raises(StepTimedOut, match="longer than 2 s"):
        run(steps.hang, Order(what=str(grandchild)), limits=Limits(timeout_s=2), log=log)

    pid = int(grandchild.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_time_limit_stands_still_while_a_step_waits_for_others_on_its_machine(
    run: Run, log: Path, tmp_path: Path
) -> None:
    heard: list[Progress] = []
    limits, timer = Limits(timeout_s=2), threading.Event()

    def hold() -> None:
        with machine_lock.exclusive(tmp_path):
            held.set()
            timer.wait(4)

    held, other = threading.Event(), threading.Thread(target=hold)
    other.start()
    held.wait()
    with progress.listening(heard.append):
        outcome = run(steps.wait_for_the_machine, Order(what=str(tmp_path)), limits=limits, log=log)
    other.join()

    assert outcome.duration_s > 2
    assert float(outcome.value.what.split()[0]) > 1
    assert "waiting for other work on this machine to end" in map(str, heard)


def test_a_step_that_takes_too_much_memory_is_stopped(run: Run, log: Path) -> None:
    begins_with = run(steps.use_memory, Order(what="", size=0), limits=Limits(), log=log).peak_memory_bytes
    limit = begins_with + 200 * MB
    with pytest.raises(WorkerOutOfResources, match=f"more than its limit of {limit:,}"):
        run(steps.eat_memory, Order(what="x", size=600 * MB), limits=Limits(memory_bytes=limit), log=log)


def test_what_is_mapped_of_a_file_counts_as_used_and_not_towards_the_limit(run: Run, log: Path, tmp_path: Path) -> None:
    """A checkpoint is mapped: under pressure the kernel takes its pages back, and reads them again."""
    begins_with = run(steps.use_memory, Order(what="", size=0), limits=Limits(), log=log).peak_memory_bytes
    (tmp_path / "weights").write_bytes(bytes(400 * MB))
    limits = Limits(memory_bytes=begins_with + 100 * MB)

    outcome = run(steps.map_a_file, Order(what=str(tmp_path / "weights")), limits=limits, log=log)

    assert outcome.peak_memory_bytes > begins_with + 350 * MB
