"""The demo: ``python -m onnx_fleet_demo demo | up | down | status``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from rich.console import Console

from onnx_fleet import jsonio
from onnx_fleet.cli import terminal
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.store import open_store
from onnx_fleet_demo import airflow_home, s3_server, stack, var, watch
from onnx_fleet_demo.airflow_client import NotReady
from onnx_fleet_demo.airflow_home import Addresses
from onnx_fleet_demo.models import MINILM
from onnx_fleet_demo.stack import StackFailed, State

console = Console(stderr=True)


def main() -> int:
    """Returns the exit status: 0 done, 1 failed, 2 misuse, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m onnx_fleet_demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="publish the demo fleet, then stop everything").set_defaults(run=demo)
    commands.add_parser("up", help="start the services and leave them running").set_defaults(run=up)
    commands.add_parser("down", help="stop what `up` started").set_defaults(run=down)
    commands.add_parser("status", help="say what is running").set_defaults(run=status)
    keeper = commands.add_parser("keep")
    keeper.add_argument("--lifeline", type=int)
    options = parser.parse_args()
    try:
        if options.command == "keep":
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
            return stack.keep(lifeline=options.lifeline)
        return int(options.run())
    except KeyboardInterrupt:
        console.print("interrupted; nothing is left running")
        return 130
    except (StackFailed, NotReady) as err:
        console.print(f"[red]{type(err).__name__}[/]: {err}", highlight=False, soft_wrap=True)
        return 1


def demo() -> int:
    """Publish the demo fleet through Airflow."""
    began = time.monotonic()
    with _stack() as addresses:
        console.print(f"ready after {time.monotonic() - began:.0f} s; triggering fleet_reexport", highlight=False)
        client = stack.client(addresses)
        since = datetime.now(UTC).isoformat()
        run_id = client.trigger(watch.DAG_ID, {})
        ended = watch.follow(client, run_id, console=console)
        report = _report(addresses, key=str(client.result(watch.DAG_ID, run_id, "report")))
        fed = report.counts["published"] == 0 or watch.settle_feed(client, since=since)
        console.print()
        terminal.records(report.records)
    for record in report.records:
        if record.state == "failed":
            console.print(f"log of {record.model_id}: {_log(run_id, record)}", highlight=False, soft_wrap=True)
    if not fed:
        console.print("[yellow]the feed was not rebuilt in time; the next publication will rebuild it[/]")
    _next_steps(took_s=time.monotonic() - began)
    return 0 if ended == "success" else 1


def up() -> int:
    """Start the services and leave them running."""
    found = stack.state()
    if found is None:
        keeper = stack.launch()
        try:
            found = _wait(keeper)
        except BaseException:
            if (half := stack.state()) is not None:
                stack.stop(half)
            raise
    return _print_where(found)


def down() -> int:
    """Stop the services."""
    found = stack.state()
    if found is None:
        stack.sweep()
        console.print("nothing is running")
        return 0
    stack.stop(found)
    console.print("stopped")
    return 0


def status() -> int:
    """Say what is running, and where."""
    found = stack.state()
    if found is None:
        print("nothing is running; start it with: make up")
        return 0
    return _print_where(found)


_REST: Final = """\
AIRFLOW={airflow}
TOKEN=$(curl -sSf $AIRFLOW/auth/token -H 'Content-Type: application/json' \\
    -d '{{"username": "{user}", "password": "{password}"}}' | sed -n 's/.*"access_token": *"\\([^"]*\\)".*/\\1/p')
curl -sS --fail-with-body $AIRFLOW/api/v2/dags/model_reexport/dagRuns -H 'Content-Type: application/json' \\
    -H "Authorization: Bearer ${{TOKEN:?Airflow gave no token. Is it running, and is this its password?}}" \\
    -d '{{"logical_date": null, "conf": {{"model": "onnx-fleet-demo/bert-tiny-emotion", "force": true}}}}'"""


def rest_lines(*, airflow: str, user: str, password: str) -> str:
    """Return lines for a shell that start a run of ``model_reexport``; they need curl and sed alone."""
    return _REST.format(airflow=airflow, user=user, password=password)


def _print_where(found: State) -> int:
    if found.addresses is None or found.phase != "ready":
        print(f"{found.phase}: {found.doing}")
        return 0
    print(f"Airflow   {found.addresses.airflow}  user {airflow_home.USER}  password {airflow_home.password()}")
    print(f"Hub       {found.addresses.hub}")
    print(f"S3        {found.addresses.s3}  bucket {s3_server.BUCKET}")
    print("stop it with: make down")
    print("\nRe-export one model by REST:")
    print(rest_lines(airflow=found.addresses.airflow, user=airflow_home.USER, password=airflow_home.password()))
    return 0


@contextmanager
def _stack() -> Iterator[Addresses]:
    """Provide running services: those that run already, or ones for the length of a with block."""
    found = stack.state()
    if found is not None and found.phase == "ready" and found.addresses is not None:
        console.print(f"using the services that are running already ({found.addresses.airflow})", highlight=False)
        yield found.addresses
        return
    if found is not None:
        raise StackFailed(
            f"another command (process {found.keeper.pid}) is using {var.root()}; wait for it, or make down"
        )
    ours, theirs = os.pipe()
    keeper = stack.launch(lifeline=ours)
    os.close(ours)
    try:
        ready = _wait(keeper)
        assert ready.addresses is not None, "a stack that is ready has addresses"
        yield ready.addresses
    finally:
        os.close(theirs)
        with console.status("stopping the services"), contextlib.suppress(KeyboardInterrupt):
            keeper.wait()
        keeper.wait()


def _wait(keeper: subprocess.Popen[bytes]) -> State:
    """Show how the services start; the last state is the ready one."""
    said = ""
    with console.status("starting") as shown:
        for now in stack.progress(keeper):
            if now.doing and now.doing != said:
                said = now.doing
                shown.update(now.doing)
                if not console.is_terminal:
                    console.print(now.doing, highlight=False)
            if now.phase == "ready":
                return now
    raise StackFailed("the services did not become ready")


def _report(addresses: Addresses, *, key: str) -> RunReport:
    store = open_store(f"s3://{s3_server.BUCKET}", s3=s3_server.settings_for(addresses.s3))
    return jsonio.parse(RunReport, store.read(key))


def _log(run_id: str, record: Record) -> str:
    """Return the newest log of the task that a model failed in."""
    logs = airflow_home.folder() / "logs" / f"dag_id={watch.DAG_ID}" / f"run_id={run_id}"
    tasks = {"validate": ("model.validate", "model.prove_on_gpu")}.get(record.step or "", (f"model.{record.step}",))
    found = [
        path
        for task in tasks
        for path in logs.glob(f"task_id={task}/**/*.log")
        if record.model_id in path.read_text(errors="replace")
    ]
    return str(max(found, key=lambda path: path.stat().st_mtime, default=logs))


def _next_steps(*, took_s: float) -> None:
    bin_dir = os.path.relpath(os.path.dirname(sys.executable))  # noqa: PTH120  # a Path would follow the venv's link
    folder = MINILM.rpartition("/")[2]
    console.print(f"\n{took_s:.0f} s. Next:", highlight=False)
    for command, why in (
        ("make up", "starts the services again and leaves them running; prints URL and login"),
        (f"{bin_dir}/onnx-fleet list", "shows what is published in the demo's bucket"),
        (f"{bin_dir}/onnx-fleet pull {MINILM} --to {folder}", "downloads a bundle and verifies it"),
        (
            f"{bin_dir}/python docs/examples/embed.py {folder} 'a cat' 'a kitten' 'a car'",
            "runs the bundle with onnxruntime",
        ),
    ):
        console.print(f"  {command}\n      {why}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
