"""The commands that run one step by itself: export, validate, measure, compare, publish."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet import formatting, jsonio
from onnx_fleet.bundles import bundle, channels, feed
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.bundles.stage import PRIVATE, Stage
from onnx_fleet.cli import step_display, terminal
from onnx_fleet.cli.options import (
    Channel,
    Cuda,
    EntryOptions,
    Folder,
    Json,
    OneModel,
    Profile,
    Store,
    with_entry_options,
)
from onnx_fleet.cli.run import new_run_id, planned, raise_refusal, recording, wanted_entries, with_profile
from onnx_fleet.cli.settings import opened_services, run_actor, signing_key
from onnx_fleet.cli.tables import show_latency, show_regression, show_validation, show_variants
from onnx_fleet.entities.graph_info import TensorSpec
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.processes import profiling
from onnx_fleet.runs import exporting, measuring, proving, steps
from onnx_fleet.runs import record as records
from onnx_fleet.runs.selection import Selection


@with_entry_options
def export(
    model: OneModel,
    out: Annotated[Path, typer.Option(help="The folder to make; an earlier export in it is replaced.")],
    *,
    entry: EntryOptions,
    store: Store = None,
    profile: Profile = False,
    as_json: Json = False,
) -> None:
    """Export one model into a folder: graphs, tokenizer, configuration. Nothing is published."""
    if out.exists() and any(out.iterdir()) and not (out / PRIVATE).is_dir():
        raise typer.BadParameter(f"{out} has files of something else; name a new folder", param_hint="--out")
    with recording(profile) as recorder, opened_services(store) as services, step_display.steps() as progress:
        wanted = wanted_entries(services, model, None, Selection(), entry=entry)
        made = planned(wanted.entries, services=services)
        raise_refusal(made)
        progress.begin(model, "export")
        stage = Stage(out, made.items[0])
        exported = exporting.export(stage, services=services, progress=progress.bytes_moved)
        costs = recorder.profile() if recorder else None
        if costs:
            profiling.write(stage.private / "profile.json", costs)
    if as_json:
        terminal.as_json(with_profile(jsonio.to_json(exported), costs))
    else:
        terminal.table(
            ("graph", "inputs", "outputs", "opset", "size"),
            [
                (
                    graph.path,
                    ", ".join(map(_tensor, graph.inputs)),
                    ", ".join(map(_tensor, graph.outputs)),
                    str(graph.opset),
                    formatting.human_bytes((out / graph.path).stat().st_size),
                )
                for graph in exported.graphs
            ],
            numbers=("opset", "size"),
            prose=("inputs", "outputs"),
            below=("inputs", "outputs"),
        )
        if costs:
            terminal.profile(costs)
        terminal.paragraphs(
            "\nnext:", *(f"  onnx-fleet {command} {out}" for command in ("validate", "measure", "publish"))
        )


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} [{', '.join(map(str, spec.shape))}]"


def validate(folder: Folder, cuda: Cuda = False, store: Store = None, as_json: Json = False) -> None:
    """Compare an exported folder with PyTorch. If a check fails, it is printed and the exit status is 1.

    If a check fails and the graphs were taken from the cache, or traced with a few layers, the model is exported again
    with every layer traced, as a run does; a folder that you have changed is left as it is. If every check passes, the
    variants that the entry asks for are made and compared with the fp32 graphs.
    """
    with opened_services(store) as services, step_display.steps() as progress:
        stage = Stage.open(folder)
        progress.begin(stage.item.model_id, "validate")
        proofs = [proving.validate(stage, services=services)]
        if cuda and proofs[0].graphs.passed:
            proofs.append(proving.validate_on_gpu(stage, services=services))
    graphs = [each.graphs for each in proofs]
    variants = [each.variants for each in proofs if each.variants is not None]
    if as_json:
        terminal.dataclasses_as_json([*graphs, *variants])
    else:
        for report in graphs:
            show_validation(report)
        for judged in variants:
            show_variants(judged)
    if not all(report.passed for report in graphs):
        raise typer.Exit(1)


def measure(
    folder: Folder,
    cuda: Cuda = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Measure also what was measured on the same graphs with other weights.")
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Measure the latency of an exported folder beside PyTorch.

    What was measured on the same graphs with other weights, as the store has it, is taken over once a few calls have
    confirmed it.
    """
    with opened_services(store) as services, step_display.steps() as progress:
        stage = Stage.open(folder)
        progress.begin(stage.item.model_id, "measure")
        found = [measuring.measure(stage, services=services, anew=anew)]
        if cuda:
            found.append(measuring.measure(stage, services=services, provider="cuda", anew=anew))
    if as_json:
        terminal.dataclasses_as_json(found)
    else:
        for each in found:
            show_latency(each)


def compare(folder: Folder, channel: Channel = bundle.LATEST, store: Store = None, as_json: Json = False) -> None:
    """Compare a measured folder with the version in use; the exit status is 1 if its gates hold it back."""
    with opened_services(store) as services, step_display.steps() as progress:
        stage = Stage.open(folder)
        progress.begin(stage.item.model_id, "compare")
        found = steps.compare(stage, services=services, channel=channel)
    if as_json:
        terminal.as_json(jsonio.to_json(found) if found else None)
    elif found is None:
        terminal.say(f"{channel} points to no other version")
    else:
        show_regression(found)
    if found and found.verdict == "held":
        raise typer.Exit(1)


def publish(
    folder: Folder,
    channel: Annotated[
        str | None,
        typer.Option(
            help="The channel to move to it; default: latest, or none if this version is already published.",
            show_default=False,
        ),
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Publish a validated folder as an immutable version, then move the channel to it.

    If the version is already published, nothing changes, and no channel moves unless you name one with --channel.
    A folder that was not compared with the version in use is compared first. If its gates hold it back, the version is
    published, the channel does not move, and the exit status is 1.
    """
    provenance = Provenance(dag_id="onnx-fleet publish", run_id=new_run_id(), trigger="manual", catalogue_digest=None)
    wanted = channel or bundle.LATEST
    with opened_services(store) as services:
        with step_display.steps() as progress:
            stage = Stage.open(folder)
            progress.begin(stage.item.model_id, "publish")
            done = steps.publish(
                stage,
                services=services,
                provenance=provenance,
                channel=wanted,
                move=channel is not None,
                by=run_actor(provenance.run_id),
                signing_key=signing_key(),
                progress=progress.bytes_moved,
            )
        feed.rebuild(services.store, now=datetime.now(UTC))
        pointer = channels.find(services.store, done.model_id, wanted)
    if as_json:
        terminal.as_json(jsonio.to_json(done))
    else:
        terminal.line(f"{ref_of(done)} {done.state}: {done.location}")
        if done.regression and done.regression.findings:
            terminal.worse(done.model_id, done.regression.compared_with, records.told(done.regression))
    if pointer and pointer.version != done.version:
        terminal.paragraphs(
            f"{wanted} stays at {pointer.version}; to move it:",
            f"  onnx-fleet channel set {done.model_id} {wanted} {done.version}",
        )
    if done.held:
        raise typer.Exit(1)
