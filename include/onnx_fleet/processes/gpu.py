"""The GPU of a worker: which one, how much of it onnxruntime may take, and what NVIDIA's driver says of it.

What the driver knows is asked through NVML (nvidia-ml-py, of requirements-gpu.txt), which makes no CUDA context: to
look at a GPU takes none of its memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOptions:
    """What a worker gives to the steps that use a GPU."""

    device_id: int = 0
    """The GPU's number, as CUDA counts them. NVML, which is asked for names and memory, counts by PCI bus and heeds no
    CUDA_VISIBLE_DEVICES: on a machine with unlike GPUs set CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    memory_bytes: int | None = None
    """The most that one session's arena takes; None leaves it to onnxruntime, which takes what it needs."""

    def provider_options(self) -> dict[str, str]:
        """Return what onnxruntime's CUDA provider is told."""
        limit = {} if self.memory_bytes is None else {"gpu_mem_limit": str(self.memory_bytes)}
        return {"device_id": str(self.device_id), **limit}

    @property
    def torch_device(self) -> str:
        return f"cuda:{self.device_id}"


def facts(device_id: int) -> dict[str, str | int]:
    """Return the GPU's name, memory and driver, as far as they can be known here."""
    with _device(device_id) as (nvml, handle):
        if nvml is None:
            return {"gpu_model": "unknown"}
        return {
            "gpu_model": str(nvml.nvmlDeviceGetName(handle)),
            "gpu_memory_bytes": int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            "gpu_driver": str(nvml.nvmlSystemGetDriverVersion()),
        }


def memory_used_bytes(device_id: int) -> int | None:
    """Return what all processes together have of the GPU's memory now; None where nobody can say."""
    with _device(device_id) as (nvml, handle):
        return None if nvml is None else int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


@contextlib.contextmanager
def _device(device_id: int) -> Iterator[tuple[Any, Any]]:
    """Return NVML and its handle of a GPU; None twice where there is no driver, or no such GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        yield None, None
        return
    except pynvml.NVMLError:
        yield None, None
        return
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(device_id)
    except pynvml.NVMLError:
        handle = None
    try:
        yield (pynvml, handle) if handle is not None else (None, None)
    finally:
        pynvml.nvmlShutdown()
