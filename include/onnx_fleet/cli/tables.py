"""The reports of the steps as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx_fleet import formatting
from onnx_fleet.cli import terminal
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.latency_report import Interval, LatencyReport, by_origin
from onnx_fleet.entities.regression_report import RegressionReport, SlowdownRow
from onnx_fleet.entities.sizing import Estimate, StepCost
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.entities.variant_report import VariantReport, said
from onnx_fleet.entities.work_item import Plan
from onnx_fleet.errors import OnnxFleetError
from onnx_fleet.runs.record import Record


def show_plan(made: Plan, *, waiting: Sequence[Record], total: StepCost | None) -> None:
    """Show what a run does with each model.

    Args:
        waiting: the records of the models that wait for their turn in a rollout.
        total: what the models to export are predicted to take together.
    """
    terminal.table(
        ("model", "state", "version", "memory", "disk", "time", "why"),
        [
            *(
                (each.model_id, terminal.state_cell(each.state), each.version or "–", *_predicted(None), each.reason)
                for each in waiting
            ),
            *(
                (item.model_id, terminal.state_cell(item.state), item.version, *_predicted(item.estimate), item.reason)
                for item in made.items
            ),
            *(
                (each.repo_id, terminal.state_cell(each.state), "–", *_predicted(None), f"{each.error}: {each.message}")
                for each in made.refusals
            ),
        ],
        numbers=("memory", "disk", "time"),
        prose=("why",),
        below=("why", "version"),
        spare=("disk", "memory"),
    )
    if total:
        memory, disk, time = _predicted(total)
        count = len(made.to_export)
        together = formatting.models(count) + ("" if count == 1 else ", one after the other")
        terminal.sentence(f"predicted for {together}: about {time}, {memory} of memory and {disk} of disk")


def _predicted(cost: Estimate | StepCost | None) -> tuple[str, str, str]:
    if cost is None:
        return "–", "–", "–"
    human_bytes, human_s = formatting.human_bytes, formatting.human_s
    return human_bytes(cost.memory_bytes), human_bytes(cost.disk_bytes), human_s(cost.seconds)


def show_validation(found: ValidationReport) -> None:
    by_check: dict[tuple[str, str], list[CheckRow]] = {}
    for row in found.rows:
        by_check.setdefault((row.check, row.output), []).append(row)
    terminal.table(
        ("provider", "check", "output", "cases", "worst diff", "result"),
        [
            (
                found.provider,
                check,
                output,
                str(len(rows)),
                f"{max((row.max_abs_diff or 0.0) for row in rows):.1e}",
                terminal.state_cell("passed" if all(row.passed for row in rows) else "failed"),
            )
            for (check, output), rows in by_check.items()
        ],
        numbers=("cases", "worst diff"),
        spare=("provider", "cases"),
    )
    if found.rests_on:
        terminal.say(f"rests on the whole proof of {found.rests_on.origin}; {len(found.rows)} were repeated")
    elif found.why_full:
        terminal.say(f"compared whole, because {found.why_full}")
    if not found.passed:
        try:
            validation_report.require_passed(found)
        except OnnxFleetError as err:
            terminal.paragraphs(str(err))


def show_variants(found: VariantReport) -> None:
    terminal.table(
        ("provider", "variant", "graph", "layers' weights", "figures", "kept in float32", "result"),
        [
            (
                found.provider,
                verdict.variant,
                graph.role,
                f"{graph.ratio:.2f}× fp32",
                said((graph,)),
                ", ".join(graph.kept) or "–",
                terminal.state_cell("good" if verdict.status == "published" else "left out"),
            )
            for verdict in found.verdicts
            for graph in verdict.graphs
        ],
        prose=("figures", "kept in float32"),
        below=("figures", "kept in float32"),
        spare=("provider",),
        named_by=3,
    )
    for verdict in found.verdicts:
        if not verdict.graphs:
            terminal.say(f"{verdict.variant} on {found.provider}: {verdict.reason}")


def show_latency(found: LatencyReport) -> None:
    if found.status == "not_run":
        terminal.say(f"not measured on {found.provider}: {found.reason}")
        return
    for missing in found.left_out:
        terminal.say(f"{missing.variant} is not measured on {found.provider}: {missing.reason}")
    terminal.table(
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
        spare=("p99 ms", "rows/s", "provider", "p95 ms"),
    )
    if found.generation:
        terminal.table(
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
            spare=("provider", "torch: first token ms", "torch: tokens/s"),
        )
    for each in found.footprints:
        peak = formatting.human_bytes(each.peak_memory_bytes)
        terminal.say(f"{each.variant} loads in {each.load_time_s:.2f} s, peak memory {peak}, threads {found.threads}")
    for origin, variants in by_origin(found.taken_over).items():
        calls = sum(each.timed_runs for one in found.taken_over if one.origin == origin for each in one.confirmations)
        terminal.paragraphs(
            f"{', '.join(variants)}: taken over from {origin}, whose graphs are the same but for their weights;"
            f" {calls} calls of these graphs agree"
        )
    for again in found.measured_anew:
        terminal.paragraphs(f"{again.variant}: measured, since {again.reason}")
    if found.values_matter and not found.measured_anew:
        terminal.paragraphs(f"these figures are this model's alone: {found.values_matter}")
    if found.noise:
        terminal.paragraphs(f"{found.noise.verdict} machine: {found.noise.reason}")
        if found.noise.verdict == "noisy":
            terminal.paragraphs(terminal.QUIETER)


def _with_interval(value: float, interval: Interval | None, *, digits: int = 2, unit: str = "") -> str:
    """``1.23 (1.20–1.31)``; without one, the runs were too few for it."""
    shown = f"{value:.{digits}f}{unit}"
    return shown if interval is None else f"{shown} ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})"


def show_regression(found: RegressionReport) -> None:
    measured = found.measured
    if measured.latency:
        _show_slowdowns(measured.latency)
    for size in measured.sizes:
        terminal.line(
            f"{size.variant}: {formatting.human_bytes(size.old_bytes)} -> {formatting.human_bytes(size.new_bytes)},"
            f" {size.ratio:.2f}×"
        )
    for ops in measured.ops:
        changed = ", ".join(f"{op} {old} -> {new}" for op, (old, new) in ops.changed.items())
        terminal.line(f"{ops.graph}: {ops.old_nodes} -> {ops.new_nodes} nodes" + (f" ({changed})" if changed else ""))
    worst = max((row.max_abs_diff or 0.0 for row in measured.outputs), default=0.0)
    terminal.line(f"outputs differ by up to {worst:.1e}" + ("" if found.alike else "; their commits or recipes differ"))
    for change in found.contract:
        terminal.line(f"{change.graph}: {change.change}" + (" [red](breaking)[/]" if change.breaking else ""))
    if measured.equal_graphs:
        terminal.paragraphs(
            "not timed, since both versions have the same graph but for the values of its weights: "
            + ", ".join(measured.equal_graphs)
        )
    if found.latencies_of and measured.latency:
        terminal.paragraphs(
            f"the latency reports of both versions show one measurement, of {found.latencies_of}; the figures above"
            " were timed for this comparison"
        )
    if found.reason:
        terminal.say(found.reason)
    if found.findings:
        terminal.worse(found.model_id, found.compared_with, (f"{each.gate}: {each.message}" for each in found.findings))
    terminal.line(
        f"{found.version} compared with {found.compared_with}, to which {found.channel} points: {found.verdict}"
    )


def _show_slowdowns(rows: Iterable[SlowdownRow]) -> None:
    terminal.table(
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
            for row in rows
        ],
        numbers=("batch", "length", "old p50 ms", "new p50 ms", "ratio"),
        spare=("old p50 ms", "new p50 ms", "95 % interval"),
    )
