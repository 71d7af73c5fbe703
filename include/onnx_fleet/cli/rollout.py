"""The commands for rollouts: rollout list, show, continue, stop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from onnx_fleet import jsonio
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import By, Json, Store
from onnx_fleet.cli.settings import opened_store, user
from onnx_fleet.runs import rollout, rollout_report, rollout_steps
from onnx_fleet.runs.rollout import Rollout

rollout_app = typer.Typer(
    help="Show how far the models have followed a change of the toolchain or of the defaults, and decide on it.",
    no_args_is_help=True,
)

RolloutId = Annotated[str, typer.Argument(help="An id of `onnx-fleet rollout list`.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for those who read about the rollout later.", show_default=False)]


@rollout_app.command("list")
def list_(store: Store = None, as_json: Json = False) -> None:
    """List the rollouts, the newest first."""
    with opened_store(store) as opened:
        found = rollout.listed(opened)
    if as_json:
        terminal.dataclasses_as_json(found)
        return
    terminal.table(
        rollout_report.COLUMNS,
        [(name, terminal.state_cell(state), *rest) for name, state, *rest in rollout_report.rows(found)],
        numbers=("models",),
        prose=("what changed",),
        below=("what changed",),
    )


@rollout_app.command("show")
def show(rollout_id: RolloutId, store: Store = None, as_json: Json = False) -> None:
    """Show where a rollout stands, and what broke in the wave that it is at."""
    with opened_store(store) as opened:
        _shown(rollout.read(opened, rollout_id), as_json=as_json)


@rollout_app.command("continue")
def continue_(rollout_id: RolloutId, reason: Reason, by: By = None, store: Store = None, as_json: Json = False) -> None:
    """Let a rollout go on that has stopped: its channels move forward again, and the next run takes one more wave."""
    with opened_store(store) as opened:
        went_on = rollout_steps.go_on(rollout_id, by=by or user(), reason=reason, store=opened, now=datetime.now(UTC))
    _moved(went_on, as_json=as_json)


@rollout_app.command("stop")
def stop(rollout_id: RolloutId, reason: Reason, by: By = None, store: Store = None, as_json: Json = False) -> None:
    """Stop a rollout that runs: the channels of the wave that is under way go back, and are held there."""
    with opened_store(store) as opened:
        stopped = rollout_steps.stop(rollout_id, by=by or user(), reason=reason, store=opened, now=datetime.now(UTC))
    _moved(stopped, as_json=as_json)


def _shown(found: Rollout, *, as_json: bool) -> None:
    if as_json:
        terminal.as_json(jsonio.to_json(found))
    else:
        print(rollout_report.markdown(found))


def _moved(found: Rollout, *, as_json: bool) -> None:
    if as_json:
        terminal.as_json(jsonio.to_json(found))
    else:
        terminal.paragraphs(rollout_report.statement(found))
