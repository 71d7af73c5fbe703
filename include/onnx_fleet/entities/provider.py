"""The providers of onnxruntime by the names that entries and reports have for them."""

from __future__ import annotations


def report_name(kind: str, provider: str) -> str:
    """A report's file stem under ``reports/``: ``validation``, ``validation_cuda``."""
    return kind if provider == "cpu" else f"{kind}_{provider}"
