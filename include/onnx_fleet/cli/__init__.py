"""The command line: the same flow as the DAGs, without Airflow.

Exit status: 0 done, 1 wrong or failed, 2 misuse.
"""

from __future__ import annotations

import json
import logging
import sys

import typer

from onnx_fleet import __version__
from onnx_fleet.cli import (
    audit,
    cache,
    channel,
    consume,
    feed,
    gc,
    inspection,
    licence,
    moves,
    rollout,
    run,
    sign,
    sinks,
    steps,
    store,
    sweep,
    watch,
)
from onnx_fleet.cli.terminal import console
from onnx_fleet.errors import OnnxFleetError

__all__ = ["app", "main"]

app = typer.Typer(
    name="onnx-fleet",
    help="Turn Hugging Face Hub models into verified, versioned ONNX bundles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run.catalogue_app, name="catalogue")
app.add_typer(cache.cache_app, name="cache")
app.add_typer(channel.channel_app, name="channel")
app.add_typer(feed.feed_app, name="feed")
app.add_typer(licence.licence_app, name="licence")
app.add_typer(rollout.rollout_app, name="rollout")
app.add_typer(sinks.sinks_app, name="sinks")
app.add_typer(store.store_app, name="store")
for command in (
    run.plan, run.run, steps.export, steps.validate, steps.measure, steps.compare, steps.publish,
    consume.list_, consume.verify, consume.pull, inspection.inspect, moves.promote, moves.rollback, moves.history,
    sign.sign, audit.audit, gc.gc, sweep.sweep, watch.watch,
):  # fmt: skip
    app.command(name=command.__name__.rstrip("_"))(command)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"onnx-fleet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Print a log line for each step."),
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(asctime)s %(name)s %(message)s")


def main() -> None:
    """Run the command; an error of ours is one clear message and exit status 1."""
    try:
        app()
    except OnnxFleetError as err:
        if "--json" in sys.argv:
            print(json.dumps({"error": type(err).__name__, "message": str(err)}))
        else:
            console.print(f"[bold red]{type(err).__name__}[/]", highlight=False)
            console.print(str(err), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
