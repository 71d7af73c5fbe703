"""The report of a comparison with the version in use: what differs, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx_fleet.entities.entry import Gates
from onnx_fleet.entities.validation_report import CheckRow


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractChange:
    """One thing that a consumer may rely on and that is not as it was."""

    graph: str
    """The graph's path in the new version; in the old one, where the new one has no such graph."""
    change: str
    """What is not as it was, for people: ``input token_type_ids is new: every call has to give it``."""
    breaking: bool
    """Whether code that works with the old version may fail with the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowdownRow:
    """One graph's work at one size, in both versions."""

    graph: str
    variant: str
    phase: str
    batch_size: int
    sequence_length: int
    """The number of tokens in a row; 1 where there are none."""
    rounds: int
    runs: int
    """The runs of each version, in all rounds together."""
    old_latency_ms_p50: float
    new_latency_ms_p50: float
    """The median of the rounds' medians; the old one too."""
    ratio: float
    """The new latency by the old one, as the geometric mean of the rounds' ratios: above 1 is slower."""
    ratio_low: float
    ratio_high: float
    """The upper end of the ratio's 95 % interval, which begins at ratio_low."""

    @property
    def at(self) -> str:
        """Name the work for people: ``step, batch 1 × 16 tokens``."""
        size = f"batch {self.batch_size} × {self.sequence_length} tokens"
        return size if self.phase == "forward" else f"{self.phase}, {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRow:
    """The graphs and weights of one variant, each file once."""

    variant: str
    old_bytes: int
    new_bytes: int

    @property
    def ratio(self) -> float:
        """The new bytes by the old ones."""
        return self.new_bytes / self.old_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpsRow:
    """What one graph is made of."""

    graph: str
    old_nodes: int
    new_nodes: int
    changed: Mapping[str, tuple[int, int]]
    """The operators whose numbers differ -> how often each is in the old graph and in the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What was found; empty where a graph is in one version only."""

    sizes: tuple[SizeRow, ...] = ()
    ops: tuple[OpsRow, ...] = ()
    outputs: tuple[CheckRow, ...] = ()
    latency: tuple[SlowdownRow, ...] = ()
    equal_graphs: tuple[str, ...] = ()
    """The graphs that are the same in both versions but for the values of their weights, and were not timed."""
    threads: int = 0


Gate = Literal["contract", "outputs", "size", "latency", "comparison"]
"""What a finding is about; ``comparison`` is one that could not be made."""
RegressionVerdict = Literal["passed", "warned", "held"]
"""What follows; ``held``: the version is published, and the channel stays at the one before."""

Completeness = Literal["compared", "contract_only", "not_compared"]

NAME = "regression"
"""The report's name: ``reports/regression.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One gate that a new version does not pass."""

    gate: Gate
    message: str
    """What is worse, by how much, and how much is allowed, for people."""
    holds: bool
    """Whether it keeps the channel where it is, by the entry's policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionReport:
    """What the comparison with the version in use found, and what follows from it."""

    schema_version: int = 1
    model_id: str
    version: str
    provider: str = "cpu"
    channel: str
    compared_with: str
    """The version that the channel points at."""
    status: Completeness
    reason: str
    """Why not all was compared."""
    verdict: RegressionVerdict
    findings: tuple[Finding, ...]
    gates: Gates
    """The policy and the thresholds that were applied."""
    alike: bool
    """Whether both are made of one commit in the same way, so that their outputs have to be equal."""
    contract: tuple[ContractChange, ...]
    latencies_of: str = ""
    """The bundle whose measurement the latency reports of both versions show, ``acme/tiny@0123abcd-4567ef01``, so that
    those cannot differ; empty where each has its own. The rows here are timed for this comparison."""
    measured: Differences
    hardware: Mapping[str, str | int]
    runtime: Mapping[str, str]
    duration_s: float


def verdict(findings: Sequence[Finding]) -> RegressionVerdict:
    """Return what all findings together come to."""
    if any(finding.holds for finding in findings):
        return "held"
    return "warned" if findings else "passed"
