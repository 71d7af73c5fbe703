"""Proof and latency on a GPU: checkpoints of real sizes through the flow's own steps, fp32 and its variants with CUDA.

    python -m benchmarks.gpu [NAME ...]

It needs what a GPU worker has (requirements-gpu.txt). The reports of every model are kept beside the results; the
tables that are printed are docs/gpu.md's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from benchmarks import checkpoints, options
from benchmarks.checkpoints import Checkpoint
from benchmarks.tables import table
from onnx_fleet import jsonio
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.entities.variant_report import VariantReport
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes.isolation import machine_limits
from onnx_fleet.runs import exporting, measuring, pipeline, proving
from onnx_fleet.runs.services import Services
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import open_store
from onnx_fleet_demo.hub_server import HubServer

T = TypeVar("T")

NAMES = ("bert", "gpt2", "llama-30", "t5")
_WANTED = {
    "variants": ["fp32", "fp16", "int8", "q4"],
    "providers": ["cpu", "cuda"],
    "latency": {"batch_sizes": [1, 8], "sequence_lengths": [16, 128, 512], "io_binding": True},
    # Random weights bear fewer bits than trained ones: a variant is timed here, not chosen.
    "variant_gates": {
        name: {"min_cosine": 0.5, "min_top1": 0.0, "max_perplexity_ratio": 10} for name in ("int8", "q4")
    },
}


def prove(checkpoint: Checkpoint, *, folder: Path, hub_url: str) -> Path:
    """Export one checkpoint, prove it on the CPU and on the GPU, and time it there twice: bound, and array by array.

    Returns:
        a folder with the reports; ``latency_cuda_arrays.json`` is the second timing.
    """
    checkpoints.make(checkpoint, folder / "hub")
    store_dir = folder / "scratch" / "store"
    store_dir.mkdir(parents=True, exist_ok=True)
    services = Services(
        store=open_store(str(store_dir)),
        hub=Hub(HubSettings(endpoint=hub_url, cache_dir=folder / "hf" / "hub")),
        work_dir=folder / "scratch" / "work",
        limits=machine_limits(),
        cache_bytes=0,
    )
    entry = reader.entry({"repo_id": checkpoint.repo_id, **_WANTED}, source=checkpoint.name)
    (item,) = pipeline.plan([entry], services=services).items
    stage, kept = services.stage(item), folder / "results" / "gpu" / checkpoint.name
    exporting.export(stage, services=services)
    report = proving.validate(stage, services=services).graphs
    if report.passed:
        report = proving.validate_on_gpu(stage, services=services).graphs
    if report.passed:
        measuring.measure(stage, services=services, provider="cuda")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(stage.folder / "reports", kept)
    if report.passed:
        arrays = replace(item.model.entry, latency=replace(item.model.entry.latency, io_binding=False))
        timed = Stage(stage.folder, replace(item, model=replace(item.model, entry=arrays)))
        measuring.measure(timed, services=services, provider="cuda")
        shutil.copy(stage.report("latency_cuda"), kept / "latency_cuda_arrays.json")
    stage.discard()
    return kept


def proofs(folders: Sequence[Path]) -> str:
    """A row a model: how far its graphs are from PyTorch on either provider, and what became of its variants."""
    rows = []
    for folder in folders:
        cpu, cuda = (_read(folder, name, ValidationReport) for name in ("validation", "validation_cuda"))
        variants = _read(folder, "variants_cuda", VariantReport)
        said = [f"{each.variant}: {each.status}" for each in variants.verdicts] if variants else []
        rows.append((folder.name, _proof(cpu), _proof(cuda), "; ".join(said) or "–"))
    return table(("model", "on the CPU", "with CUDA", "variants with CUDA"), rows)


def latencies(folders: Sequence[Path]) -> str:
    """A row a model, precision and point of the grid: bound, array by array, and PyTorch eager beside both."""
    rows = [row for folder in folders for row in _latency_rows(folder)]
    heads = (
        "model",
        "precision",
        "phase",
        "batch × tokens",
        "p50 ms",
        "× PyTorch",
        "p50 ms, arrays",
        "× PyTorch, arrays",
    )
    return table(heads, rows)


def memory(folders: Sequence[Path]) -> str:
    """A row a model and precision: what loading and running it takes."""
    rows = []
    for folder in folders:
        found = _read(folder, "latency_cuda", LatencyReport)
        for each in found.footprints if found else ():
            on_gpu = "–" if each.gpu_memory_bytes is None else f"{each.gpu_memory_bytes / 1e6:,.0f}"
            host = f"{each.peak_memory_bytes / 1e6:,.0f}"
            rows.append((folder.name, each.variant, f"{each.load_time_s:.2f}", on_gpu, host))
    return table(("model", "precision", "load s", "GPU MB", "host MB"), rows)


def main() -> None:
    """Prove the checkpoints that are named, or those that the page has."""
    parser = options.parser("gpu", __doc__, names="checkpoints")
    chosen = parser.parse_args()
    folder, done = chosen.folder.absolute(), []
    (folder / "hub").mkdir(parents=True, exist_ok=True)
    with HubServer(folder / "hub") as server:
        for checkpoint in checkpoints.named(chosen.names or NAMES):
            done.append(prove(checkpoint, folder=folder, hub_url=server.url))
            print(
                "\n\n".join((f"## {checkpoint.title}", proofs(done[-1:]), latencies(done[-1:]), memory(done[-1:]))),
                flush=True,
            )
    print("\n\n".join(("## All", proofs(done), latencies(done), memory(done))))


def _latency_rows(folder: Path) -> Iterator[tuple[str, ...]]:
    bound = _read(folder, "latency_cuda", LatencyReport)
    arrays = _read(folder, "latency_cuda_arrays", LatencyReport)
    other = {(row.graph, row.phase, row.at): row for row in arrays.rows} if arrays else {}
    for row in bound.rows if bound else ():
        beside = other.get((row.graph, row.phase, row.at))
        yield (
            folder.name,
            row.variant,
            row.phase,
            f"{row.batch_size} × {row.sequence_length}",
            f"{row.latency_ms_p50:.2f}",
            f"{row.ratio_to_torch:.2f}",
            f"{beside.latency_ms_p50:.2f}" if beside else "–",
            f"{beside.ratio_to_torch:.2f}" if beside else "–",
        )


def _proof(report: ValidationReport | None) -> str:
    if report is None or report.worst_abs_diff is None:
        return report.reason if report else "–"
    nodes = ", ".join(
        f"{count} {name.removesuffix('ExecutionProvider')}" for name, count in report.nodes_by_provider.items()
    )
    return f"{report.status}, {len(report.rows)} rows, at most {report.worst_abs_diff:.1e} off; nodes: {nodes}"


def _read(folder: Path, name: str, kind: type[T]) -> T | None:
    path = folder / f"{name}.json"
    return jsonio.parse(kind, path.read_bytes()) if path.exists() else None


if __name__ == "__main__":
    main()
