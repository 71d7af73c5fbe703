"""The commands that make bundles: catalogue check, plan, run, and each step by itself."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet import flow, formatting, jsonio, report
from onnx_fleet import record as records
from onnx_fleet.bundles import bundle, feed, stage
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.cli import show
from onnx_fleet.cli.options import (
    Architecture,
    CatalogueFile,
    Channel,
    Cuda,
    Folder,
    Force,
    Json,
    MaxFailed,
    MaxRefused,
    Model,
    OneModel,
    Only,
    Opset,
    Profile,
    RecipeName,
    Revision,
    Store,
    Task,
    Variants,
    WeightsVariant,
)  # fmt: skip
from onnx_fleet.cli.settings import opened_tools
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.latency_report import Interval, LatencyReport
from onnx_fleet.entities.regression_report import RegressionReport
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.variant_report import VariantReport, said
from onnx_fleet.entities.work_item import Plan
from onnx_fleet.errors import OnnxFleetError
from onnx_fleet.flow import Tools
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes import profiling

catalogue_app = typer.Typer(help="Look at a catalogue file.", no_args_is_help=True)


@catalogue_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A catalogue file.", show_default=False)], as_json: Json = False
) -> None:
    """Name every fault of a catalogue file by its line; exit status 1 when there is one."""
    found = reader.load(file)
    if as_json:
        show.as_json({"models": len(found.entries), "discover": len(found.discover), "digest": found.digest})
    else:
        show.line(f"{file}: {len(found.entries)} models and {len(found.discover)} Hub searches, no fault")


def plan(
    model: Model = None,
    catalogue_file: CatalogueFile = None,
    only: Only = None,
    revision: Revision = None,
    task: Task = None,
    architecture: Architecture = None,
    weights_variant: WeightsVariant = None,
    recipe: RecipeName = None,
    opset: Opset = None,
    variants: Variants = None,
    force: Force = False,
    max_failed: MaxFailed = 0,
    max_refused: MaxRefused = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Say what a run would do, and why; nothing is exported or published.

    The exit status is 1 where the run's would be: a model failed to resolve, or too many are refused.
    """
    with opened_tools(store) as tools:
        entries, _ = _entries(
            tools,
            model,
            catalogue_file,
            only,
            revision=revision,
            task=task,
            architecture=architecture,
            weights_variant=weights_variant,
            recipe=recipe,
            opset=opset,
            variants=variants,
        )
        made = _plan(entries, tools=tools, force=_run_id() if force else None)
    if as_json:
        show.as_json(jsonio.to_json(made))
    else:
        show.table(
            ("model", "state", "version", "why"),
            [
                *((item.model_id, show.coloured(item.state), item.version, item.reason) for item in made.items),
                *(
                    (each.repo_id, show.coloured(each.state), "–", f"{each.error}: {each.message}")
                    for each in made.refusals
                ),
            ],
        )
    ended = report.build(map(records.of_refusal, made.refusals), run_id="plan", now=datetime.now(UTC))
    _require_passed(ended, max_failed=max_failed, max_refused=max_refused, one_model=model is not None)


def run(
    model: Model = None,
    catalogue_file: CatalogueFile = None,
    only: Only = None,
    revision: Revision = None,
    task: Task = None,
    architecture: Architecture = None,
    weights_variant: WeightsVariant = None,
    recipe: RecipeName = None,
    opset: Opset = None,
    variants: Variants = None,
    force: Force = False,
    channel: Channel = bundle.LATEST,
    max_failed: MaxFailed = 0,
    max_refused: MaxRefused = None,
    store: Store = None,
    profile: Profile = False,
    as_json: Json = False,
) -> None:
    """The whole flow: resolve, plan, export, validate, measure, compare, publish."""
    run_id = _run_id()
    with _recording(profile) as recorder, opened_tools(store, many_steps=True) as tools:
        entries, digest = _entries(
            tools,
            model,
            catalogue_file,
            only,
            revision=revision,
            task=task,
            architecture=architecture,
            weights_variant=weights_variant,
            recipe=recipe,
            opset=opset,
            variants=variants,
        )
        made = _plan(entries, tools=tools, force=run_id if force else None, channel=channel)
        provenance = Provenance(dag_id="onnx-fleet run", run_id=run_id, trigger="manual", catalogue_digest=digest)
        found = [records.of_refusal(refusal) for refusal in made.refusals]
        profiles: dict[str, profiling.Profile] = {}
        with show.steps() as steps:
            for item in made.items:
                with profiling.part() as part:
                    found.append(
                        flow.process(
                            item,
                            tools=tools,
                            provenance=provenance,
                            channel=channel,
                            on_step=partial(steps.begin, item.model_id),
                            progress=steps.bytes_moved,
                        )
                    )
                    if part and item.state != "unchanged":
                        profiles[item.model_id] = part.profile()
                steps.end()
        summary = report.build(found, run_id=run_id, now=datetime.now(UTC))
        report.write(summary, store=tools.store)
        if summary.counts["published"] or summary.counts["held"]:
            feed.rebuild(tools.store, now=datetime.now(UTC))
        costs = profiling.RunProfile(run_id=run_id, whole=recorder.profile(), models=profiles) if recorder else None
        if costs:
            profiling.write(tools.work_dir / "profiles" / f"{run_id}.json", costs)
    if as_json:
        show.as_json(_with_profile(jsonio.to_json(summary), costs))
    else:
        show.records(summary.records)
        if costs:
            show.profile(costs.whole)
    _require_passed(summary, max_failed=max_failed, max_refused=max_refused, one_model=model is not None)


def export(
    model: OneModel,
    out: Annotated[Path, typer.Option(help="The folder to make; an earlier export in it is replaced.")],
    revision: Revision = None,
    task: Task = None,
    architecture: Architecture = None,
    weights_variant: WeightsVariant = None,
    recipe: RecipeName = None,
    opset: Opset = None,
    variants: Variants = None,
    store: Store = None,
    profile: Profile = False,
    as_json: Json = False,
) -> None:
    """Make the folder of one bundle: graphs, tokenizer, configuration. Nothing is published."""
    if out.exists() and any(out.iterdir()) and not (out / stage.PRIVATE).is_dir():
        raise typer.BadParameter(f"{out} holds something else; name a new folder", param_hint="--out")
    with _recording(profile) as recorder, opened_tools(store) as tools, show.steps() as steps:
        entries, _ = _entries(
            tools,
            model,
            None,
            None,
            revision=revision,
            task=task,
            architecture=architecture,
            weights_variant=weights_variant,
            recipe=recipe,
            opset=opset,
            variants=variants,
        )
        made = _plan(entries, tools=tools)
        _raise_refusal(made)
        steps.begin(model, "export")
        exported = flow.export(made.items[0], place=out, tools=tools, progress=steps.bytes_moved)
        costs = recorder.profile() if recorder else None
        if costs:
            profiling.write(out / stage.PRIVATE / "profile.json", costs)
    if as_json:
        show.as_json(_with_profile(jsonio.to_json(exported), costs))
    else:
        show.table(
            ("graph", "inputs", "outputs", "opset", "size"),
            [
                (
                    graph.path,
                    ", ".join(f"{value.name} {list(value.shape)}" for value in graph.inputs),
                    ", ".join(f"{value.name} {list(value.shape)}" for value in graph.outputs),
                    str(graph.opset),
                    formatting.human_bytes((out / graph.path).stat().st_size),
                )
                for graph in exported.graphs
            ],
        )
        if costs:
            show.profile(costs)
        show.say(f"next: onnx-fleet validate {out}; onnx-fleet measure {out}; onnx-fleet publish {out}")


def validate(folder: Folder, cuda: Cuda = False, store: Store = None, as_json: Json = False) -> None:
    """Compare an exported folder with its source in PyTorch; exit status 1 and the failed checks when it is wrong.

    What is right gets the variants that its entry wants, each held to the fp32 graphs.
    """
    with opened_tools(store) as tools, show.steps() as steps:
        steps.begin(stage.read_work(folder).model_id, "validate")
        found = [flow.validate(folder, tools=tools)]
        variants = [flow.make_variants(folder, tools=tools)] if found[0].passed else []
        if cuda and found[0].passed:
            found.append(flow.validate(folder, tools=tools, provider="cuda"))
            variants += [flow.judge_on_gpu(folder, tools=tools)] if found[1].passed else []
    judged = [each for each in variants if each is not None]
    if as_json:
        show.dataclasses_as_json([*found, *judged])
    else:
        for each in found:
            _show_validation(each)
        for report in judged:
            _show_variants(report)
    if not all(each.passed for each in found):
        raise typer.Exit(1)


def measure(folder: Folder, cuda: Cuda = False, store: Store = None, as_json: Json = False) -> None:
    """Time an exported folder's graphs beside PyTorch."""
    with opened_tools(store) as tools, show.steps() as steps:
        steps.begin(stage.read_work(folder).model_id, "measure")
        found = [flow.measure(folder, tools=tools)]
        if cuda:
            found.append(flow.measure(folder, tools=tools, provider="cuda"))
    if as_json:
        show.dataclasses_as_json(found)
    else:
        for each in found:
            _show_latency(each)


def compare(folder: Folder, channel: Channel = bundle.LATEST, store: Store = None, as_json: Json = False) -> None:
    """Compare a measured folder with the version that the channel points at; exit status 1 when its gates hold it."""
    with opened_tools(store) as tools, show.steps() as steps:
        steps.begin(stage.read_work(folder).model_id, "compare")
        found = flow.compare(folder, tools=tools, channel=channel)
    if as_json:
        show.as_json(jsonio.to_json(found) if found else None)
    elif found is None:
        show.say(f"{channel} points at no other version")
    else:
        _show_regression(found)
    if found and found.verdict == "held":
        raise typer.Exit(1)


def publish(folder: Folder, channel: Channel = bundle.LATEST, store: Store = None, as_json: Json = False) -> None:
    """Put a validated folder into the store as an immutable version, then point the channel at it.

    A folder that was not compared with the version in use is compared first. Where its gates keep the channel where it
    is, the version is published all the same, and the exit status is 1.
    """
    provenance = Provenance(dag_id="onnx-fleet publish", run_id=_run_id(), trigger="manual", catalogue_digest=None)
    with opened_tools(store) as tools:
        with show.steps() as steps:
            steps.begin(stage.read_work(folder).model_id, "publish")
            done = flow.publish_stage(
                folder, tools=tools, provenance=provenance, channel=channel, progress=steps.bytes_moved
            )
        feed.rebuild(tools.store, now=datetime.now(UTC))
    if as_json:
        show.as_json(jsonio.to_json(done))
    else:
        show.line(f"{done.model_id}@{done.version} {done.state}: {done.location}")
        if done.regression and done.regression.findings:
            show.worse(done.model_id, done.regression.compared_with, records.told(done.regression))
    if done.held:
        show.say(
            f"{channel} stays where it was; to move it: onnx-fleet channel set {done.model_id} {channel} {done.version}"
        )
        raise typer.Exit(1)


def _entries(
    tools: Tools,
    model: str | None,
    file: Path | None,
    only: list[str] | None,
    *,
    variants: list[str] | None,
    **settings: str | int | None,
) -> tuple[tuple[Entry, ...], str | None]:
    """The entries that a command is about, and the catalogue's digest where there is one."""
    given: dict[str, object] = {key: value for key, value in settings.items() if value is not None}
    if variants:
        given["variants"] = [FP32, *(name for name in variants if name != FP32)]
    if (model is None) == (file is None):
        raise typer.BadParameter("name one model, or a file with --catalogue", param_hint="MODEL")
    if file is None:
        return (reader.entry({"repo_id": model, **given}, source=str(model)),), None
    if given:
        raise typer.BadParameter("a catalogue says this itself", param_hint=f"--{next(iter(given))}")
    found = reader.load(file)
    from onnx_fleet.source import resolve

    entries = reader.expand(found, partial(resolve.search, hub=tools.hub))
    return reader.select(entries, only or ()), found.digest


def _plan(entries: Iterable[Entry], *, tools: Tools, force: str | None = None, channel: str = bundle.LATEST) -> Plan:
    with show.console.status("asking the Hub and the store"):
        return flow.plan(tuple(entries), tools=tools, force=force, channel=channel)


def _require_passed(summary: report.RunReport, *, max_failed: int, max_refused: int | None, one_model: bool) -> None:
    """Exit status 1 where the run's gate does not pass: a single model that is refused is one that was asked for."""
    if max_refused is None and one_model:
        max_refused = 0
    if not report.gate(summary, max_failed=max_failed, max_refused=max_refused).passed:
        raise typer.Exit(1)


def _recording(asked: bool) -> AbstractContextManager[profiling.Recorder | None]:
    return profiling.recording(from_start=True) if asked else nullcontext()


def _with_profile(document: jsonio.Json, costs: profiling.Profile | profiling.RunProfile | None) -> jsonio.Json:
    return {**document, "profile": jsonio.to_json(costs)} if costs else document


def _raise_refusal(made: Plan) -> None:
    from onnx_fleet import errors

    for refusal in made.refusals:
        kind: type[OnnxFleetError] = getattr(errors, refusal.error)
        raise kind(refusal.message)


def _run_id() -> str:
    return f"cli__{datetime.now(UTC):%Y%m%dT%H%M%S}_{time.monotonic_ns() % 1_000_000:06d}"


def _show_validation(found: ValidationReport) -> None:
    by_check: dict[tuple[str, str], list[CheckRow]] = {}
    for row in found.rows:
        by_check.setdefault((row.check, row.output), []).append(row)
    show.table(
        ("provider", "check", "output", "cases", "worst diff", "result"),
        [
            (
                found.provider,
                check,
                output,
                str(len(rows)),
                f"{max((row.max_abs_diff or 0.0) for row in rows):.1e}",
                "[green]passed[/]" if all(row.passed for row in rows) else "[red]failed[/]",
            )
            for (check, output), rows in by_check.items()
        ],
        numbers=("cases", "worst diff"),
    )
    if not found.passed:
        try:
            validation_report.require_passed(found)
        except OnnxFleetError as err:
            show.console.print(str(err), markup=False, highlight=False, soft_wrap=True)


def _show_variants(found: VariantReport) -> None:
    show.table(
        ("provider", "variant", "graph", "layers' weights", "figures", "kept in float32", "result"),
        [
            (
                found.provider,
                verdict.variant,
                graph.role,
                f"{graph.ratio:.2f}× fp32",
                said((graph,)),
                ", ".join(graph.kept) or "–",
                "[green]good[/]" if verdict.status == "published" else "[red]left out[/]",
            )
            for verdict in found.verdicts
            for graph in verdict.graphs
        ],
    )
    for verdict in found.verdicts:
        if not verdict.graphs:
            show.say(f"{verdict.variant} on {found.provider}: {verdict.reason}")


def _show_latency(found: LatencyReport) -> None:
    if found.status == "not_run":
        show.say(f"not measured on {found.provider}: {found.reason}")
        return
    for missing in found.left_out:
        show.say(f"{missing.variant} is not measured on {found.provider}: {missing.reason}")
    show.table(
        ("provider", "variant", "phase", "batch", "length", "p50 ms", "p95 ms", "p99 ms", "rows/s", "vs torch"),
        [
            (
                found.provider,
                row.variant,
                row.phase,
                str(row.batch_size),
                "–" if row.sequence_length is None else str(row.sequence_length),
                _with_interval(row.latency_ms_p50, row.latency_ms_p50_interval),
                _with_interval(row.latency_ms_p95, row.latency_ms_p95_interval),
                f"{row.latency_ms_p99:.2f}",
                f"{row.throughput_per_s:.1f}",
                _with_interval(row.ratio_to_torch, row.ratio_to_torch_interval, unit="×"),
            )
            for row in found.rows
        ],
        numbers=("batch", "length", "p50 ms", "p95 ms", "p99 ms", "rows/s", "vs torch"),
    )
    if found.generation:
        show.table(
            (
                "provider",
                "variant",
                "batch",
                "length",
                "first token ms",
                "tokens/s",
                "torch: first token ms",
                "torch: tokens/s",
            ),
            [
                (
                    found.provider,
                    row.variant,
                    str(row.batch_size),
                    "–" if row.sequence_length is None else str(row.sequence_length),
                    _with_interval(row.first_token_ms_p50, row.first_token_ms_p50_interval),
                    _with_interval(row.tokens_per_s, row.tokens_per_s_interval, digits=0),
                    f"{row.torch_first_token_ms_p50:.2f}",
                    f"{row.torch_tokens_per_s:.0f}",
                )
                for row in found.generation
            ],
            numbers=("batch", "length", "first token ms", "tokens/s", "torch: first token ms", "torch: tokens/s"),
        )
    for each in found.footprints:
        peak = formatting.human_bytes(each.peak_memory_bytes)
        show.say(f"{each.variant} loads in {each.load_time_s:.2f} s, peak memory {peak}, threads {found.threads}")
    if found.noise:
        show.say(f"{found.noise.verdict} machine: {found.noise.reason}")


def _with_interval(value: float, interval: Interval | None, *, digits: int = 2, unit: str = "") -> str:
    """``1.23 (1.20–1.31)``; without one, the runs were too few for it."""
    shown = f"{value:.{digits}f}{unit}"
    return shown if interval is None else f"{shown} ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})"


def _show_regression(found: RegressionReport) -> None:
    measured = found.measured
    show.table(
        ("graph", "phase", "batch", "length", "old p50 ms", "new p50 ms", "ratio", "95 % interval"),
        [
            (
                row.graph,
                row.phase,
                str(row.batch_size),
                str(row.sequence_length),
                f"{row.old_latency_ms_p50:.2f}",
                f"{row.new_latency_ms_p50:.2f}",
                f"{row.ratio:.2f}×",
                f"{row.ratio_low:.2f} to {row.ratio_high:.2f}",
            )
            for row in measured.latency
        ],
        numbers=("batch", "length", "old p50 ms", "new p50 ms", "ratio"),
    )
    for size in measured.sizes:
        show.line(
            f"{size.variant}: {formatting.human_bytes(size.old_bytes)} -> {formatting.human_bytes(size.new_bytes)},"
            f" {size.ratio:.2f}×"
        )
    for ops in measured.ops:
        changed = ", ".join(f"{op} {old} -> {new}" for op, (old, new) in ops.changed.items())
        show.line(f"{ops.graph}: {ops.old_nodes} -> {ops.new_nodes} nodes" + (f" ({changed})" if changed else ""))
    worst = max((row.max_abs_diff or 0.0 for row in measured.outputs), default=0.0)
    show.line(
        f"outputs differ by up to {worst:.1e}" + ("" if found.alike else "; they are of another commit or recipe")
    )
    for change in found.contract:
        show.line(f"{change.graph}: {change.change}" + (" [red](breaking)[/]" if change.breaking else ""))
    if found.reason:
        show.say(found.reason)
    if found.findings:
        show.worse(found.model_id, found.compared_with, (f"{each.gate}: {each.message}" for each in found.findings))
    show.line(f"{found.version} beside {found.compared_with}, which {found.channel} points at: {found.verdict}")
