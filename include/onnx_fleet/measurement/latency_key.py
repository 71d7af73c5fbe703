"""The key of a measurement: all that decides how long a variant's graphs take, apart from the values of their weights.

Two variants with one key have the same latencies, and PyTorch beside them has too. Whatever might decide one is in the
key: what the exporter calls the same graphs (export/cache_keys.py: configuration, code, settings and packages), the
graphs as they lie in the stage, the points, the machine, and the versions of what runs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from typing import Final

from onnx_fleet import jsonio
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import LatencyGrid
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.provider import CPU
from onnx_fleet.graphs import structure
from onnx_fleet.processes import hardware
from onnx_fleet.processes.gpu import GpuOptions

METHOD: Final = 1
"""The number of our own way to measure; raise it whenever figures come to mean something else, and all are taken
anew."""
_NO_FACTS_OF_LATENCY: Final = frozenset({"memory_bytes"})
"""What is told of a machine and differs between workers that are alike: the memory that they may use."""


def of_variants(stage: Stage, *, provider: str = CPU, gpu: GpuOptions | None = None) -> dict[str, str]:
    """Return the key of each variant of an exported stage, 64 hex digits.

    Returns:
        Nothing where this bundle's figures are its own: its entry wants that, no key tells all that its graphs depend
        on, or a file of the stage was changed since the export.
    Raises:
        BundleNotFound: nothing was exported into the stage.
    """
    from onnx_fleet.graphs import text_inputs  # imports numpy

    record, grid = stage.read_export(), stage.item.model.entry.latency
    if grid.reuse == "never" or record.graph_key is None or stage.is_changed():
        return {}
    shared = {
        "method": METHOD,
        "graphs": record.graph_key,
        "provider": provider,
        "points": _points(grid),
        "longest text": text_inputs.tokenizer_limit(stage.folder),
        "machine": _machine(provider, gpu),
        "runtime": hardware.versions(),
    }
    by_variant: dict[str, list[GraphInfo]] = {}
    for info in record.graphs:
        by_variant.setdefault(info.variant, []).append(info)
    return {
        variant: _digest({**shared, "variant": variant, "structure": _structure(stage, graphs)})
        for variant, graphs in by_variant.items()
    }


def _points(grid: LatencyGrid) -> dict[str, object]:
    return {
        "batch_sizes": sorted(grid.batch_sizes),
        "sequence_lengths": sorted(grid.sequence_lengths),
        "warmup_runs": grid.warmup_runs,
        "timed_runs": grid.timed_runs,
        "threads": grid.threads or hardware.usable_cores(),
        "io_binding": grid.io_binding,
        "precision": grid.precision,
        "budget_s": grid.budget_s,
    }


def _machine(provider: str, gpu: GpuOptions | None) -> dict[str, object]:
    gpu_id = (gpu or GpuOptions()).device_id if provider != CPU else None
    facts = hardware.hardware(gpu_id=gpu_id)
    return {name: value for name, value in facts.items() if name not in _NO_FACTS_OF_LATENCY}


def _structure(stage: Stage, graphs: list[GraphInfo]) -> dict[str, object]:
    return {
        info.path: {
            "role": info.role,
            "digest": structure.digest(stage.folder / info.path),
            "libraries": {name: _version(name) for name in info.libraries},
        }
        for info in graphs
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _digest(told: Mapping[str, object]) -> str:
    return hashlib.sha256(jsonio.canonical(dict(told))).hexdigest()
