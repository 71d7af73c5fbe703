"""The providers of onnxruntime by the names that entries and reports have for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Provider = Literal["cpu", "cuda"]
"""Where an entry can ask to be validated and measured."""
CPU: Final = "cpu"
"""Where every bundle is validated."""
CUDA: Final = "cuda"
"""Where a bundle is proven and measured too, if its entry asks for it."""

EXECUTION_PROVIDERS: Final[Mapping[Provider, str]] = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
"""The names that onnxruntime has for them."""


def report_name(kind: str, provider: str) -> str:
    """Return the stem of a report's file under ``reports/``: ``validation``, ``validation_cuda``."""
    return kind if provider == CPU else f"{kind}_{provider}"
