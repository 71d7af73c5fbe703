"""The catalogue: a YAML file that lists models, Hub searches and defaults -> entries, or every fault at once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far an output may be from PyTorch's: |a - b| <= atol + rtol * |b|."""

    atol: float = 1e-4
    rtol: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyGrid:
    """The points to measure: every batch size with every sequence length."""

    batch_sizes: tuple[int, ...] = (1, 8)
    sequence_lengths: tuple[int, ...] = (16, 128)
    warmup_runs: int = 5
    timed_runs: int = 50
    threads: int | None = None
    """Intra-op threads; None takes the cores that the process may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model wanted."""

    repo_id: str
    revision: str = "main"
    task: str | None = None
    """A task name of onnx_fleet.tasks.TASKS; None takes it from the Hub's pipeline tag, then the architecture."""
    recipe: str | None = None
    """The name of a built-in recipe (onnx_fleet.recipes.RECIPES); None exports the model as it is."""
    variants: tuple[str, ...] = ("fp32",)
    opset: int = 20
    tolerances: Tolerances = field(default_factory=Tolerances)
    latency: LatencyGrid = field(default_factory=LatencyGrid)
    providers: tuple[str, ...] = ("cpu",)
    """Where to validate and measure: "cpu", "cuda"."""
    allowed_licences: tuple[str, ...] | None = None
    """None allows every licence."""
    trust_remote_code: str | None = None
    """The commit SHA whose Python code may be run; None runs none."""
    allow_pickle: str | None = None
    """The commit SHA whose pickle weights may be loaded; None loads safetensors only."""
    max_bytes: int | None = None
    priority: int = 0
    """Higher goes first."""
