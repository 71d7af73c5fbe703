"""The machine that figures are taken on: its processor, memory and GPU, and the packages of its runtime."""

from __future__ import annotations

import math
import os
import platform
import re
from importlib import metadata
from pathlib import Path

from onnx_fleet.processes import gpu


def usable_cores() -> int:
    """Count the cores that this process may use: by its affinity or its cgroup's quota, whichever is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read_text("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def hardware(*, gpu_id: int | None = None) -> dict[str, str | int]:
    """Return what a latency depends on and a reader cannot know: CPU model, cores, memory, and a GPU's.

    Args:
        gpu_id: the number of the GPU that computes; None where none does.
    """
    import psutil

    model = re.search(r"^model name\s*:\s*(.+)$", _read_text("/proc/cpuinfo"), re.MULTILINE)
    memory = int(psutil.virtual_memory().total)
    limit = _read_text("/sys/fs/cgroup/memory.max").strip()
    facts: dict[str, str | int] = {
        "cpu_model": model[1] if model else platform.processor() or platform.machine(),
        "cpu_architecture": platform.machine(),
        "cores_usable": usable_cores(),
        "cores_total": os.cpu_count() or 1,
        "memory_bytes": min(memory, int(limit)) if limit.isdigit() else memory,
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
