"""The demo, as a user runs it: one command in a folder of its own, and nothing left running afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from onnx_fleet_demo import airflow_home, models
from onnx_fleet_demo.airflow_client import AirflowClient

pytestmark = [pytest.mark.demo, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Commands of the demo, all on one ``var/``."""

    var: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "ONNX_FLEET_VAR": str(self.var), "COLUMNS": "200"}

    def start(self, command: str) -> subprocess.Popen[str]:
        """Without a terminal, and in a process group of its own; what a shell starts behind `&` ignores Ctrl+C."""
        return subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-m", "onnx_fleet_demo", command],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit status, and all that was printed."""
        began = time.monotonic()
        process = self.start(command)
        output, _ = process.communicate()
        print(f"\n{command}: {time.monotonic() - began:.0f} s\n{output}")
        return process.returncode, output

    def fleet(self, *arguments: str) -> str:
        """What ``onnx-fleet`` prints."""
        return subprocess.run(
            [Path(sys.executable).parent / "onnx-fleet", *arguments],
            env=self.environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout

    def stack(self) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads((self.var / "stack.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait_for(self, phase: str) -> dict[str, object]:
        """Until the services are so far; gives what var/stack.json says."""
        soon = Retrying(
            retry=retry_if_result(lambda stack: stack.get("phase") != phase),
            wait=wait_fixed(0.1),
            stop=stop_after_delay(180),
        )
        return soon(self.stack)

    def processes(self) -> list[str]:
        """Command lines of what runs on this ``var/``."""
        return [line for process in psutil.process_iter() if (line := self._command_line(process))]

    def wait_until_gone(self) -> None:
        gone = Retrying(retry=retry_if_result(bool), wait=wait_fixed(0.1), stop=stop_after_delay(60))
        gone(self.processes)

    def _command_line(self, process: psutil.Process) -> str:
        """Empty for what does not run on this ``var/``, and for what has ended meanwhile."""
        try:
            uses = process.environ().get("ONNX_FLEET_VAR") == str(self.var) or str(self.var) in process.cwd()
            return " ".join(process.cmdline()) if uses else ""
        except psutil.Error:
            return ""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    made = Demo(var=tmp_path_factory.mktemp("demo") / "var")
    yield made
    made.run("down")


def test_the_demo_publishes_the_fleet(demo: Demo, tmp_path: Path) -> None:
    status, output = demo.run("demo")
    assert status == 0, output
    assert "make up" in output
    for model_id in models.DEMO_MODELS:
        assert any(model_id in line and "published" in line for line in output.splitlines()), model_id
        assert f"s3://onnx-fleet/models/{model_id}/" in output
    assert demo.processes() == []

    demo.fleet("pull", models.CLASSIFIER, "--to", str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "onnx" / "model.onnx").is_file()


def in_a_shell(lines: str) -> subprocess.CompletedProcess[str]:
    """Run lines that were printed to be pasted."""
    return subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=False)


def test_services_that_are_left_running_are_used_and_stopped(demo: Demo) -> None:
    """They start where the fleet is published already, and the demo then finds it unchanged."""
    status, output = demo.run("up")
    assert status == 0, output
    assert "http://127.0.0.1:" in output
    addresses = demo.stack()["addresses"]
    assert isinstance(addresses, dict)
    assert demo.run("up")[1].splitlines()[0] in output

    (password,) = re.findall(r"password (\S+)$", output, flags=re.MULTILINE)
    lines = output.partition("by REST:\n")[2]
    started = in_a_shell(lines)
    assert started.returncode == 0, started.stderr
    AirflowClient(addresses["airflow"], user=airflow_home.USER, password=password).end_runs("model_reexport")
    run = json.loads(started.stdout)
    assert (run["dag_id"], run["state"], run["triggered_by"]) == ("model_reexport", "queued", "rest_api")
    assert run["conf"] == {"model": models.CLASSIFIER, "force": True}
    with_another_password = in_a_shell(lines.replace(password, "…"))
    assert with_another_password.returncode != 0
    assert with_another_password.stdout == ""
    assert "401" in with_another_password.stderr
    assert "Airflow gave no token" in with_another_password.stderr
    refused = in_a_shell(lines.replace('"force": true', '"force": "yes"'))
    assert refused.returncode != 0
    assert "force" in refused.stdout, "the answer that says why is shown"

    status, output = demo.run("demo")
    assert status == 0, output
    assert "running already" in output
    for model_id in models.DEMO_MODELS:
        assert any(model_id in line and "unchanged" in line for line in output.splitlines()), model_id
    assert demo.stack()["addresses"] == addresses

    assert demo.run("down")[0] == 0
    assert demo.processes() == []
    for address in addresses.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0
    with_nothing_there = in_a_shell(lines)
    assert with_nothing_there.returncode != 0
    first, second = with_nothing_there.stderr.splitlines()
    assert "Failed to connect" in first
    assert "Airflow gave no token" in second


def test_an_interrupted_demo_leaves_nothing_running(demo: Demo) -> None:
    process = demo.start("demo")
    demo.wait_for("starting")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "nothing is left running" in output
    assert demo.processes() == []


def test_a_killed_demo_leaves_nothing_running(demo: Demo) -> None:
    process = demo.start("demo")
    demo.wait_for("ready")
    process.kill()
    process.communicate()
    demo.wait_until_gone()
