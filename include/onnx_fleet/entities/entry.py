"""An entry: one model wanted, or one search for models, whoever wrote it down. Nothing of YAML is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from onnx_fleet.entities.naming import matches
from onnx_fleet.entities.variant import FP32, VariantGates

OPSET_DEFAULT: Final = 20

WeightPlacement = Literal["auto", "inline", "external"]
"""Where weights lie: inside each graph's file, beside it, or by size and sharing."""
INLINE_MAX_BYTES: Final = 32 << 20
"""The most bytes of weights that "auto" puts into a graph's own file, which is simpler to carry; more are not copied
through memory."""
TokenizerForm = Literal["exact", "as-published", "none"]
"""What becomes of the tokenizer: its tokenizer.json equals what transformers' class makes of the source's files; or it
is the source's file whatever the class makes of it; or the bundle has none."""
DECODER_FORMS: Final = ("merged", "without-past", "plain")
"""How an encoder-decoder may be cut into graphs; the first is what consumers load."""


OWN_TOLERANCES: Final = "the entry's own"
"""What a manifest's settings say of tolerances that an entry gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far an output may be from PyTorch's: |a - b| <= atol + rtol * |b|."""

    atol: float = 1e-4
    """The most that is allowed where no entry says more, like rtol. checks.tolerances takes less where that will do."""
    rtol: float = 1e-3
    derived: bool = False
    """Whether they were worked out from a model, and are no entry's own word: what differs by more may then still be
    rounding (checks.float64)."""


Reuse = Literal["same_graph", "never"]
ProofExtent = Literal["repeat", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyGrid:
    """The points to measure: every batch size with every sequence length."""

    batch_sizes: tuple[int, ...] = (1, 8)
    sequence_lengths: tuple[int, ...] = (16, 128)
    warmup_runs: int = 5
    """The least number of runs before the clock starts; there are more until a model stops becoming faster."""
    timed_runs: int = 100
    """The number of runs that percentiles are taken of; 72 are the least that give p95 an interval."""
    threads: int | None = None
    """Intra-op threads; None takes the cores that the process may use."""
    io_binding: bool = False
    """Whether inputs and outputs stay where the graph computes; else they are numpy arrays, copied in and out."""
    precision: float | None = 0.05
    """The half-width of a median's 95 % interval, as a share of the median, at which no more runs are taken; None takes
    all."""
    budget_s: int | None = 10
    """About how many seconds all points of a model may take; None gives each point its own time."""
    reuse: Reuse = "same_graph"
    """Whether figures are taken over that were measured on the same graphs with other weights; "never" measures every
    bundle, and keeps nothing for others."""
    max_age_days: int = 30
    """The age from which on such figures are not taken over, and the next model is measured."""


Policy = Literal["block", "warn", "off"]
BreakingPolicy = Literal["block", "warn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What a new version may be worse in than the one in use before its channel stays where it is."""

    policy: Policy = "warn"
    """What follows where a version is slower, larger or off in its outputs: "block" keeps the channel where it is, and
    "off" does not look."""
    breaking: BreakingPolicy = "block"
    """What follows where inputs, outputs or graphs have changed that consumers rely on; they are looked at whatever the
    policy is."""
    max_slowdown: float = 1.25
    """The largest allowed ratio of the new p50 to the old one."""
    max_growth: float = 1.10
    """The largest allowed ratio of new bytes to old ones, of the graphs and weights of one variant."""
    max_drift: float = 2.0
    """The largest allowed distance, in the entry's tolerances or the default's most: two versions, each within one of
    PyTorch, are within two of each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model wanted."""

    repo_id: str
    revision: str = "main"
    task: str | None = None
    """A task name of onnx_fleet.entities.tasks.TASKS; None takes it from the Hub's pipeline tag, then the
    architecture."""
    architecture: str | None = None
    """A class of transformers that the weights are of; None takes config.json's, else the task's of its model type."""
    recipe: str | None = None
    """A recipe's name, as onnx_fleet.recipes.find takes it; None exports the model as it is."""
    variants: tuple[str, ...] = (FP32,)
    """Names of onnx_fleet.entities.variant.NAMES; the others are made from fp32, and held to it."""
    required_variants: tuple[str, ...] = ()
    """The variants without which nothing is published."""
    variant_gates: Mapping[str, VariantGates] = field(default_factory=dict)
    """The gates of variants, by name, where they are not the variant's own defaults."""
    calibration: str | None = None
    """A file of texts or a folder of pictures beside recipes/, to tune and judge variants with; None takes built-in
    texts, or what the checks fed."""
    opset: int = OPSET_DEFAULT
    weights: WeightPlacement = "auto"
    """Where the weights lie: "inline", in each graph's file; "external", beside it; "auto", by size."""
    inline_max_bytes: int = INLINE_MAX_BYTES
    """The most bytes of weights that "auto" puts into a graph's file."""
    weights_variant: str | None = None
    """The name of one of a repo's sets of weights: ``fp16`` is model.fp16.safetensors; None takes model.safetensors."""
    decoder_form: str = DECODER_FORMS[0]
    """One of DECODER_FORMS: how an encoder-decoder is cut into graphs."""
    may_be_fixed: tuple[str, ...] = ()
    """Symbols of graph_info.FIXABLE: axes that may have one size in the graphs, where the model cannot keep them
    dynamic."""
    tokenizer: TokenizerForm = "exact"
    """What the bundle's tokenizer.json is held to, or "none" for a bundle without one."""
    tokenizer_graph: bool = False
    """Whether the bundle has ``tokenizer.onnx`` too, where that can be made exact."""
    proof: ProofExtent = "repeat"
    """Whether graphs that were proven with other weights are compared in part; "full" compares every bundle whole."""
    tolerances: Tolerances | None = None
    """How far outputs may be from PyTorch's; None takes that from the model: its depth, and how PyTorch rounds it."""
    latency: LatencyGrid = field(default_factory=LatencyGrid)
    gates: Gates = field(default_factory=Gates)
    providers: tuple[str, ...] = ("cpu",)
    """Where to validate and measure: "cpu", "cuda"."""
    allowed_licences: tuple[str, ...] | None = None
    """The Hub's ids of licences that a model may have; None allows every one that is not to be approved."""
    licences_to_approve: tuple[str, ...] | None = None
    """Patterns of licences that a model may have once a person has approved it; None asks nobody."""
    follow_renames: bool = True
    """Whether a repo that the Hub has renamed is taken, and published under its new id."""
    trust_remote_code: str | None = None
    """The commit SHA whose Python code may be run; None runs none."""
    allow_pickle: str | None = None
    """The commit SHA whose pickle weights may be loaded; None loads safetensors only."""
    max_bytes: int | None = None
    priority: int = 0
    """The order of models in a run: higher goes first."""
    own: tuple[str, ...] = field(default=(), compare=False)
    """The names of the settings that the entry gives itself, sorted; it has the others from the defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The waves in which a catalogue's models follow a change of the toolchain or of the defaults."""

    shares: tuple[int, ...] = (5, 25, 100)
    """The share of the models that is through after each wave, in percent, rising to 100."""
    min_models: int = 20
    """The least number of models for which there are waves; fewer are taken at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discover:
    """One search of the Hub."""

    author: str | None = None
    tags: tuple[str, ...] = ()
    """Tags that a model must have, all of them."""
    task: str | None = None
    """The Hub's pipeline tag."""
    library: str | None = None
    sort: str = "downloads"
    """What the results are sorted by, one of schema.SORTS; the highest come first."""
    limit: int = 10
    min_downloads: int = 0
    exclude: tuple[str, ...] = ()
    """Patterns of repo ids to leave out, matched without regard to case."""
    template: Entry = field(default_factory=lambda: Entry(repo_id=""))
    """What each model found is wanted with; ``entry`` puts its repo id in."""

    def entry(self, repo_id: str) -> Entry:
        """Return the entry of a model that was found."""
        return replace(self.template, repo_id=repo_id)

    def excludes(self, repo_id: str) -> bool:
        """Tell whether a pattern leaves a model out."""
        return matches(repo_id, self.exclude)
