"""What a catalogue file may say: the models that YAML is held to, and the JSON Schema that editors complete it by."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from onnx_fleet.entities.entry import (
    DECODER_FORMS,
    INLINE_MAX_BYTES,
    OPSET_DEFAULT,
    BreakingPolicy,
    Canary,
    Policy,
    ProofExtent,
    Reuse,
    TokenizerForm,
    WeightPlacement,
)
from onnx_fleet.entities.provider import CPU
from onnx_fleet.entities.retention import Retention
from onnx_fleet.entities.variant import FP32
from onnx_fleet.planning.catalogue.values import (
    PERCENTAGE,
    AxisName,
    CommitSha,
    DecoderForm,
    MadeVariantName,
    Positive,
    ProviderName,
    RecipeName,
    RepoId,
    Size,
    SortName,
    TaskName,
    VariantName,
    Word,
    check_architecture,
    check_calibration,
    check_distinct,
    check_providers,
    check_revision,
    check_rising,
    check_variants,
    check_weights_variant,
    read_canary,
)

OPSET_MIN: Final = 18
"""The lowest opset: torch's ONNX library is written in 18, and a conversion to a lower one may fail half-way."""
OPSET_MAX: Final = 23
"""The highest opset, torch 2.13.0's ONNX_MAX_OPSET. onnxruntime 1.31.1 would load up to 26, and onnxscript 0.7.2
convert up to 25."""

DISCOVER_LIMIT_MAX: Final = 1000


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, defer_build=True)


class TolerancesSection(_Section):
    """How far an output may be from PyTorch's: |a - b| <= atol + rtol * |b|."""

    atol: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1e-4
    """The absolute part."""
    rtol: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1e-3
    """The relative part."""


class VariantGatesSection(_Section):
    """How far a variant may be from the fp32 graphs; what is left out is the variant's own."""

    min_cosine: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = None
    """The least mean cosine over all output vectors; logits are centred first."""
    min_top1: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """The least share of choices (labels, next tokens, span ends, pixels) that stay the same."""
    max_perplexity_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """The largest ratio of a language model's perplexity on real text to fp32's."""
    max_layers_ratio: Annotated[float, Field(ge=0.05, le=1, allow_inf_nan=False)] | None = None
    """The largest share that the layers' weights may take of their bytes in fp32; embeddings, scales and biases are not
    counted. 1 is no gate."""


class LatencySection(_Section):
    """The points to measure: every batch size with every sequence length."""

    batch_sizes: Annotated[list[Positive], Field(min_length=1), AfterValidator(check_distinct)] = [1, 8]
    """The numbers of rows in one call."""
    sequence_lengths: Annotated[list[Positive], Field(min_length=1), AfterValidator(check_distinct)] = [16, 128]
    """The numbers of tokens in a row."""
    warmup_runs: Annotated[int, Field(ge=0, le=10_000)] = 5
    """Runs before the clock starts, at least; more until the model stops becoming faster."""
    timed_runs: Annotated[int, Field(ge=2, le=100_000)] = 100
    """Runs that the percentiles are taken of; p95 has an interval from 72 on."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Intra-op threads; left out, as many as the process may use."""
    io_binding: bool = False
    """Leave inputs and outputs where the graph computes, as a server does that keeps caches on a GPU; else they are
    arrays in the host's memory, copied in and out by each call."""
    precision: Annotated[float, Field(ge=0.001, le=1)] | None = 0.05
    """Take no more runs once the medians' 95 % intervals reach no further than this share of them to either side; with
    null, timed_runs are taken."""
    budget_s: Annotated[int, Field(ge=1, le=86_400)] | None = 10
    """About how many seconds the points of a model may take together; with null, each has its own time."""
    reuse: Reuse = "same_graph"
    """Take over what was measured on the same graphs with other weights, and confirm it by a few calls; never measures
    every model."""
    max_age_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Measure again what was measured so many days ago."""


class GatesSection(_Section):
    """What a new version may be worse in than the one in use before its channel stays where it is."""

    policy: Policy = "warn"
    """What follows where it is slower, larger or off in its outputs: block keeps the channel, warn only says so, off
    does not look."""
    breaking: BreakingPolicy = "block"
    """What follows where inputs, outputs or graphs have changed; the report says it in any case."""
    max_slowdown: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.25
    """How many times slower: judged by the whole 95 % interval of the ratio, so that noise does not count."""
    max_growth: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.10
    """How many times larger: the graphs and weights of one variant."""
    max_drift: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 2.0
    """How many of the entry's tolerances the outputs of one commit may be from those of the version in use."""


class KeptSection(_Section):
    """Which versions of a model stay, beside what its channels point to and what is signed."""

    keep_last: Annotated[int, Field(ge=1)] = Retention().keep_last
    """The number of its newest versions that stay."""
    history_days: Annotated[int, Field(ge=1)] = Retention().history_days
    """For how many days a version stays after a channel has left it, or has not followed it."""
    grace_days: Annotated[int, Field(ge=1)] = Retention().grace_days
    """For how many days a version stays after it was published; what killed writers have left, likewise."""
    release_keys: Annotated[list[Word], AfterValidator(check_distinct)] | None = None
    """The ids of the keys whose signature keeps a version; left out, any signature does."""


class RetentionSection(KeptSection):
    """What `onnx-fleet gc` and the DAG bundle_retention leave of models, of the catalogue or not."""

    exceptions: dict[Word, KeptSection] = {}
    """What holds for the models whose id matches a pattern, such as BAAI/*; the first that matches counts, and what it
    leaves out is as for all."""


class SettingsSection(_Section):
    """What can be said of one model, of what a search finds, or of all models (under ``defaults``)."""

    task: TaskName | None = None
    """What the model is exported for; left out, the Hub's pipeline tag says it, then the architecture."""
    recipe: RecipeName | None = None
    """What changes the export: a built-in recipe, or recipes.file:name; left out, the model stays as it is."""
    variants: Annotated[
        list[VariantName], Field(min_length=1), AfterValidator(check_distinct), AfterValidator(check_variants)
    ] = [FP32]
    """Precisions to make; one that is not good enough is left out of the bundle, which says so."""
    required_variants: Annotated[list[MadeVariantName], AfterValidator(check_distinct)] = []
    """Variants without which nothing is published; they are made, also where variants has them not."""
    variant_gates: dict[MadeVariantName, VariantGatesSection] = {}
    """How far each variant may be from fp32, by its name."""
    calibration: Annotated[str, AfterValidator(check_calibration)] | None = None
    """What to tune and judge variants with: a .txt or .jsonl file of texts, or a folder of pictures, beside recipes/;
    left out, built-in texts, or what the checks fed."""
    opset: Annotated[int, Field(ge=OPSET_MIN, le=OPSET_MAX)] = OPSET_DEFAULT
    """The ONNX operator set of the graphs."""
    weights: WeightPlacement = "auto"
    """Where the weights lie: inline, in each graph's file; external, beside it; auto, by size."""
    inline_max_bytes: Size = INLINE_MAX_BYTES
    """The most that auto puts of a graph's weights into its file: a number of bytes, or 32 MiB."""
    decoder_form: DecoderForm = DECODER_FORMS[0]
    """How an encoder-decoder is cut: with a cache, without one, or as one graph of source and target."""
    may_be_fixed: Annotated[list[AxisName], AfterValidator(check_distinct)] = []
    """Axes that may have one size in the graphs, where the model cannot keep them dynamic."""
    tokenizer: TokenizerForm = "exact"
    """exact: tokenizer.json equals what transformers' class makes of the source's files; as-published: it is the
    source's file, whatever the class makes of it; none: the bundle has none, and no text is read to prove it."""
    tokenizer_graph: bool = False
    """Also make tokenizer.onnx, which takes text; it needs onnxruntime-extensions wherever it is used."""
    tolerances: TolerancesSection | None = None
    """How far an output may be from PyTorch's; left out, what the model's depth and rounding need."""
    proof: ProofExtent = "repeat"
    """repeat: graphs that were proven whole with other weights are compared with PyTorch in part; full: every bundle is
    compared whole."""
    latency: LatencySection = LatencySection()
    gates: GatesSection = GatesSection()
    providers: Annotated[
        list[ProviderName], Field(min_length=1), AfterValidator(check_distinct), AfterValidator(check_providers)
    ] = [CPU]
    """Where to validate and measure; cuda needs a worker on the GPU queue."""
    allowed_licences: Annotated[list[Word], Field(min_length=1), AfterValidator(check_distinct)] | None = None
    """The Hub's licence ids, such as apache-2.0; left out, every licence is allowed."""
    licences_to_approve: Annotated[list[Word], Field(min_length=1), AfterValidator(check_distinct)] | None = None
    """Licences that a person has to approve for each model; * and ? stand for other characters."""
    follow_renames: bool = True
    """Take a repo that the Hub has renamed, and publish it under its new id; false refuses it."""
    max_bytes: Size | None = None
    """The most that may be downloaded: a number of bytes, or 2 GB."""
    priority: int = 0
    """The order of models in a run: higher goes first."""


class ModelSection(SettingsSection):
    """One model wanted."""

    repo_id: RepoId
    """The Hub's id: org/name."""
    revision: Annotated[str, AfterValidator(check_revision)] = "main"
    """A branch, a tag or a commit SHA."""
    architecture: Annotated[str, AfterValidator(check_architecture)] | None = None
    """The class of transformers that the weights are of, such as BertForMaskedLM; left out, config.json says it."""
    weights_variant: Annotated[str, AfterValidator(check_weights_variant)] | None = None
    """The name of one of a repo's sets of weights: fp16 is model.fp16.safetensors; left out, model.safetensors."""
    trust_remote_code: CommitSha | None = None
    """The one commit SHA whose Python code may be run; left out, none is."""
    allow_pickle: CommitSha | None = None
    """The one commit SHA whose pickle weights may be loaded; left out, only safetensors are."""


class DiscoverSection(SettingsSection):
    """A search of the Hub; each model found is an entry with this section's other settings."""

    task: TaskName | None = None
    """The Hub's pipeline tag to look for, and what the models found are exported for."""
    author: Word | None = None
    """A user or an organisation."""
    tags: Annotated[list[Word], Field(min_length=1), AfterValidator(check_distinct)] | None = None
    """Tags that a model must have, all of them."""
    library: Word | None = None
    """The library that a model must be made for, such as transformers or sentence-transformers."""
    sort: SortName = "downloads"
    """What the results are sorted by; the highest come first."""
    limit: Annotated[int, Field(ge=1, le=DISCOVER_LIMIT_MAX)] = 10
    """The most models that the search may add."""
    min_downloads: Annotated[int, Field(ge=0)] = 0
    """Downloads in the last 30 days, as the Hub counts them."""
    exclude: list[Word] = []
    """Repo ids to leave out; * and ? stand for other characters."""


BY_ID: Final = "<repo id>"
BY_MAPPING: Final = "<mapping>"


def _form(item: object) -> str | None:
    if isinstance(item, str):
        return BY_ID
    return BY_MAPPING if isinstance(item, dict | ModelSection) else None


ModelItem = Annotated[
    Annotated[RepoId, Tag(BY_ID)] | Annotated[ModelSection, Tag(BY_MAPPING)],
    Discriminator(
        _form,
        custom_error_type="fault",
        custom_error_message="a model is a repo id or a mapping; write - org/name, or - repo_id: org/name",
    ),
]


class CanarySection(_Section):
    """How the models follow a new version of a package, or a change of the defaults: in waves, of which each has to be
    good before the next."""

    shares: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1), AfterValidator(check_rising)] = (
        list(Canary().shares)
    )
    """The share of the models that is through after each wave, in percent; 100 is the last, also if it is left out.
    [100] takes all models at once."""
    min_models: Annotated[int, Field(ge=2)] = Canary().min_models
    """The least number of changed models for which there are waves; fewer are taken at once."""


CanaryItem = Annotated[
    CanarySection,
    BeforeValidator(read_canary, json_schema_input_type=CanarySection | Annotated[str, Field(pattern=PERCENTAGE)]),
]


class CatalogueFile(_Section):
    """The models that onnx-fleet keeps as ONNX bundles."""

    defaults: SettingsSection = SettingsSection()
    """What every model has unless it says otherwise."""
    models: list[ModelItem] = []
    """The models wanted, each by its repo id or as a mapping."""
    discover: list[DiscoverSection] = []
    """Searches of the Hub, made anew at each run."""
    canary: CanaryItem = CanarySection()
    """How the models follow a change of the toolchain or of the defaults; 5% is short for {shares: [5]}."""
    retention: RetentionSection = RetentionSection()
    """Which versions of models stay."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a catalogue file."""
    schema = CatalogueFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "onnx-fleet catalogue"}
