"""The machine that figures are taken on: its processor, memory and GPU, and the packages of its runtime."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from onnx_fleet.processes import cgroups, gpu


def usable_cores() -> int:
    """Count the cores that this process may use: its affinity and its cgroups' quota, whichever is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, cgroups.cores() or count)


def usable_memory_bytes() -> int:
    """Return the bytes of memory that this process may use: the machine's or its cgroups' limit, whichever is less."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, cgroups.memory_limit_bytes() or total)


def hardware(*, gpu_id: int | None = None) -> dict[str, str | int]:
    """Return what a latency depends on and a reader cannot know: CPU model, cores, memory, and a GPU's.

    Args:
        gpu_id: the number of the GPU that computes; None where none does.
    """
    model = re.search(r"^model name\s*:\s*(.+)$", _read_text("/proc/cpuinfo"), re.MULTILINE)
    facts: dict[str, str | int] = {
        "cpu_model": model[1] if model else platform.processor() or platform.machine(),
        "cpu_architecture": platform.machine(),
        "cores_usable": usable_cores(),
        "cores_total": os.cpu_count() or 1,
        "memory_bytes": usable_memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
    }
    return facts if gpu_id is None else {**facts, **gpu.facts(gpu_id)}


def versions() -> dict[str, str]:
    """Return the versions that figures are taken with; torch's is read without importing it."""
    names = ("onnxruntime", "onnxruntime-gpu", "numpy", "torch")
    found = {name: version for name in names if (version := _installed(name)) is not None}
    return {**found, "python": platform.python_version()}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
