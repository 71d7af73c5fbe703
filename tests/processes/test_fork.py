"""Steps that are forked from a process with torch in it: what they find, and who ends with whom.

What every isolated step promises is in test_isolation.py, for forked ones too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from fixtures import steps
from fixtures.steps import Order, Surroundings
from onnx_fleet.processes import isolation
from onnx_fleet.processes.isolation import Limits, run
from onnx_fleet.runs import services

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")

TESTS = Path(__file__).parents[1]
ORDER = Order(what="")


@pytest.fixture(autouse=True)
def _steps_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "step.log"


def look(log: Path) -> Surroundings:
    return run(steps.look, ORDER, limits=Limits(), log=log, with_torch=True).value


def test_steps_are_forks_of_one_process_that_has_torch_no_thread_and_none_of_our_files(log: Path) -> None:
    first, second = look(log), look(log)

    assert first.parent == second.parent != os.getpid()
    assert psutil.Process(first.parent).ppid() == os.getpid()
    assert first.pid != second.pid
    assert first.session == first.pid
    assert first.has_torch
    assert first.threads == 1
    assert first.files == ()


@pytest.mark.parametrize("imports", [services.EXPORT_IMPORTS, services.STEP_IMPORTS], ids=["export", "others"])
def test_the_steps_of_a_run_are_forked_with_all_that_they_import(imports: tuple[str, ...], log: Path) -> None:
    """A module that started a thread would have every step begin with an interpreter, and nobody would be told."""
    found = run(steps.look, ORDER, limits=Limits(imports=imports), log=log, with_torch=True).value

    assert found.parent != os.getpid()
    assert found.threads == 1


def test_a_step_that_needs_no_torch_has_none(log: Path) -> None:
    found = run(steps.look, ORDER, limits=Limits(), log=log).value

    assert found.parent == os.getpid()
    assert not found.has_torch


def test_a_process_that_runs_one_step_makes_no_server(log: Path) -> None:
    found = run(steps.look, ORDER, limits=Limits(may_be_forked=False), log=log, with_torch=True).value

    assert found.parent == os.getpid()


def test_every_librarys_threads_work_in_a_fork_and_in_the_next(log: Path, tmp_path: Path) -> None:
    square = ["n", "n"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, square) for name in "ab"],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, square)],
    )
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    for _ in range(2):
        order = Order(what=str(path), size=256)
        assert (
            run(steps.calculate, order, limits=Limits(timeout_s=60), log=log, with_torch=True).value.what == "2 threads"
        )


def test_steps_at_the_same_time_share_the_server(log: Path) -> None:
    found: list[Surroundings] = []
    threads = [threading.Thread(target=lambda: found.append(look(log))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({each.pid for each in found}) == 4
    assert len({each.parent for each in found}) == 1


def test_what_one_kind_of_step_needs_is_imported_when_it_is_asked_for(log: Path) -> None:
    def with_module(name: str) -> Surroundings:
        order = Order(what=name)
        return run(steps.look, order, limits=Limits(imports=(name,)), log=log, with_torch=True).value

    first, second = look(log), with_module("this")
    assert first.parent == second.parent, "of the same server"
    assert not first.has_module
    assert second.has_module


def test_a_module_that_cannot_be_imported_keeps_nobody_else_from_ending(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server then forks no more; what it has forked runs on, and what is ordered gets an interpreter."""
    monkeypatch.setenv("A_SERVER_OF_ITS_OWN", "please")
    left = tmp_path / "pid"
    with ThreadPoolExecutor() as pool:
        order = Order(what=str(left))
        waits = pool.submit(run, steps.wait_while_there, order, limits=Limits(), log=log, with_torch=True)
        _until(left.exists)
        for _ in range(2):
            limits = Limits(imports=("no_such_module",))
            assert run(steps.look, ORDER, limits=limits, log=log, with_torch=True).value.parent == os.getpid()
        left.unlink()
        assert waits.result().value.parent != os.getpid()


def test_a_server_imports_while_its_owner_does_something_else(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SERVER_OF_ITS_OWN", "yes")
    isolation.prepare(Limits())
    _until(lambda: any(map(_is_server, psutil.Process().children())))  # Linux starts a program before it names it
    (server,) = filter(_is_server, psutil.Process().children())

    assert look(log).parent == server.pid


def test_a_server_that_was_killed_is_replaced(log: Path) -> None:
    first = look(log)
    os.kill(first.parent, signal.SIGKILL)
    _until(lambda: _is_over(first.parent))
    second = look(log)

    assert second.has_torch
    assert second.parent != first.parent


def test_a_step_finds_the_environment_and_the_folder_that_a_new_interpreter_would(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look(log)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.chdir(tmp_path)
    after = look(log)

    assert before.environment.get("OMP_NUM_THREADS") != "3"
    assert after.environment["OMP_NUM_THREADS"] == "3"
    assert after.folder == str(tmp_path)
    assert after.has_torch
    assert _is_over(before.parent)


def test_from_a_process_with_threads_nothing_is_forked(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of which fork knows nothing leaves its locks locked for ever: here one that every interpreter starts."""
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(tmp_path)]))

    for _ in range(2):
        assert look(log).parent == os.getpid()


def test_a_step_dies_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    """Killed from outside, a task leaves neither its step nor the server."""
    left = tmp_path / "pid"
    with _task(left, log=tmp_path / "log") as task:
        try:
            _until(left.exists)
            step, server = map(int, left.read_text().split())
            assert psutil.Process(server).ppid() == task.pid
        finally:
            task.kill()
    _until(lambda: _is_over(step) and _is_over(server))


def test_a_server_that_still_imports_dies_with_its_owner(tmp_path: Path) -> None:
    with _task(tmp_path / "pid", log=tmp_path / "log") as task:
        try:
            _until(lambda: bool(psutil.Process(task.pid).children()))
            (server,) = psutil.Process(task.pid).children()
            _until(lambda: "onnx_fleet.processes.fork_server" in server.cmdline())
            _until(lambda: server.cpu_times().user > 0.5)
        finally:
            task.kill()
    killed = time.monotonic()
    _until(lambda: _is_over(server.pid))
    assert time.monotonic() - killed < 2, "its imports take longer"


def _task(left: Path, *, log: Path) -> subprocess.Popen[bytes]:
    """A process that runs a step which never ends."""
    program = f"""
from pathlib import Path
from fixtures import steps
from onnx_fleet.processes.isolation import Limits, run
from onnx_fleet.runs import services
run(steps.wait, steps.Order(what={str(left)!r}), limits=Limits(), log=Path({str(log)!r}), with_torch=True)
"""
    return subprocess.Popen([sys.executable, "-c", program])


def _is_server(process: psutil.Process) -> bool:
    try:
        return "onnx_fleet.processes.fork_server" in process.cmdline()
    except psutil.NoSuchProcess:  # one of an earlier test, at its end
        return False


def _is_over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)
