"""What every graph is held to, whatever its family: the file, where its nodes run, and axes that are really dynamic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnx_fleet import recipes
from onnx_fleet.entities.graph_info import SYMBOLS, GraphInfo, TensorSpec
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import GpuUnavailable, ValidationFailed
from onnx_fleet.graphs import description, text_inputs, workloads
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.graphs.further_inputs import FurtherInput
from onnx_fleet.graphs.initializers import Weight, weights_of
from onnx_fleet.graphs.placement import require_placed
from onnx_fleet.graphs.text_inputs import TokenSpace
from onnx_fleet.source import reference
from onnx_fleet.validation.checks import seq2seq_feeds
from onnx_fleet.validation.checks.context import SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.single_graph import against_pytorch

DYNAMIC_SIZES = ((1, 1), (3, 2), (4, 13))
"""Batch sizes and lengths that no example has."""
LARGEST_BATCH = (32, 3)
"""Rows and tokens, for graphs that take tokens: so many images would cost as much as all other checks together."""
LONGEST = 2048
"""How many tokens one row has, where the model takes as many: it is run for its sizes, not compared."""
LONGEST_SOUND: Mapping[str, int] = {"num_samples": 160_000, "num_frames": 1_000}
"""Ten seconds of sound."""
LARGEST_BYTES = 256 << 20
"""How large one layer's attention scores, and the logits, may become with the length."""
LARGEST_MODEL = 1 << 28
"""Parameters: a larger model runs nothing that is longer than what is compared, a minute for sizes alone."""
_INTEGERS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids", "decoder_input_ids"})
_LENGTHS = frozenset({"sequence_length", "encoder_sequence_length", "total_sequence_length"})
_LEAST_USED = 0.9
"""A checkpoint's own file is carried along up to here: docs/decisions/weights.md."""


def contract(subject: CheckContext) -> Iterator[CheckRow]:
    """The file is the one that the export recorded, takes what the source model takes, and names its axes."""
    for role, info in subject.graphs.items():
        case = subject.case("contract", "the file as it lies", role=role)
        path = subject.stage_dir / info.path
        try:
            found = description.describe(path, role=info.role, variant=info.variant, bundle=subject.stage_dir)
        except KeyError as err:
            said = f"{err} is no opset or IR version of the contract: no onnxruntime is known to take it"
            yield case.row("error", detail=said)
            continue
        faults = [
            *_recorded(subject, info, found, case),
            *_named(found, case),
            *_typed(subject, found, case),
            *_open(subject, found, case),
            *_paired(found, case),
            *_taken(subject, found, case),
        ]
        if found.opset != subject.item.model.entry.opset:
            said = f"opset {found.opset} where the entry wants {subject.item.model.entry.opset}"
            faults.append(case.row("different", detail=said))
        yield from faults or [case.row("equal", passed=True)]


def external_data(subject: CheckContext) -> Iterator[CheckRow]:
    """Every file beside the graphs is as long as they say, is theirs to nine tenths, and none lies there for nobody."""
    recorded = subject.stage.read_export().graphs
    ranges: dict[str, set[tuple[int, int]]] = {}
    for info in recorded:
        for weight in _weights(subject, info):
            if weight.external:
                ranges.setdefault(weight.file, set()).add((weight.offset, weight.size_bytes))
    case = subject.case("external_data", "every file under onnx/, by what the graphs say of it")
    faults = 0
    for file in sorted((subject.stage_dir / "onnx").iterdir()):
        path, size = f"onnx/{file.name}", file.stat().st_size
        if path in {info.path for info in recorded}:
            continue
        end = max((offset + length for offset, length in ranges.get(path, ())), default=0)
        used = sum(length for _, length in ranges.get(path, ()))
        if end > size:
            said = f"ends at byte {size}, and weights lie up to byte {end}"
        elif used < _LEAST_USED * size:
            said = f"{size - used} of its {size} bytes are read by no graph"
        else:
            continue
        faults += 1
        yield case.row("different" if used else "unexpected", output=path, detail=said)
    if not faults:
        yield case.row("equal", passed=True, detail=f"{len(ranges)} files")


def placement(subject: CheckContext) -> Iterator[CheckRow]:
    """The nodes ran on the provider that was asked for, by the session's own profile."""
    for role, info in subject.graphs.items():
        work = workloads.shortest(info, space=_space(subject))
        case = subject.case("placement", work.text, role=role)
        try:
            found = subject.session(role).prove_placement(work.feeds(info, seed=SEED))
            require_placed(found, graph=info.path)
        except ValidationFailed as err:
            yield case.row("error", detail=str(err))
        except GpuUnavailable as err:
            yield case.row("placement", detail=str(err))
        else:
            yield case.row("equal", passed=True)


def dynamic(subject: CheckContext) -> Iterator[CheckRow]:
    """No axis named dynamic was frozen: outputs have the sizes that their symbols promise, at sizes never traced."""
    limit = reference.longest(subject.stage_dir, subject.reference, bound=LONGEST)
    for role, info in subject.graphs.items():
        takes_tokens = "input_ids" in {spec.name for spec in info.inputs}
        sizes = [(rows, min(length, limit or length)) for rows, length in DYNAMIC_SIZES]
        works = [
            work
            for rows, length in sizes
            for work in workloads.of(info, batch_size=rows, length=length, space=_space(subject))
        ]
        if takes_tokens:
            rows, length = LARGEST_BATCH
            works += workloads.of(info, batch_size=rows, length=min(length, limit or length), space=_space(subject))
        for work in (*works, *_longest(subject, info, limit=limit)):
            yield from _sizes_kept(subject, info, work, case=subject.case("dynamic", work.text, role=role))


def recipe_cases(subject: CheckContext) -> Iterator[CheckRow]:
    """On the inputs that the recipe names, one for each way that the model branches, every output equals PyTorch's."""
    name = subject.item.model.entry.recipe
    cases = recipes.find(name).cases if name else None
    if cases is None:
        return
    (info,) = subject.graphs.values()  # the export refuses cases for more
    work = workloads.of(info, batch_size=2, length=9, space=_space(subject))[0]
    for text, feeds in cases(work.feeds(info, seed=SEED)).items():
        case = subject.case("recipe_cases", f"{text}, {work.text}, seed {SEED}")
        try:
            found = subject.session(info.role).run(feeds)
        except ValidationFailed as err:
            yield case.row("error", detail=str(err))
            continue
        yield from against_pytorch(subject, feeds, subject.reference(feeds), found, case=case)


def _space(subject: CheckContext) -> TokenSpace | None:
    return subject.space if "input_ids" in subject.reference.parameters else None


def _longest(subject: CheckContext, info: GraphInfo, *, limit: int | None) -> Iterator[workloads.Workload]:
    """One row as long as the model takes it and memory allows; behind a cache of as many tokens, too."""
    symbols = {axis for spec in info.inputs for axis in spec.shape if isinstance(axis, str)}
    length = DYNAMIC_SIZES[-1][1] if limit is None else _bounded(subject, limit)
    if "decoder_sequence_length" in symbols:  # the target may be shorter than the source
        target = seq2seq_feeds.target_limit(subject)
        length = length if "past_sequence_length" in symbols else min(length, target)
        yield from workloads.of(info, batch_size=1, length=length, space=_space(subject), decoded=target - 1)
    elif limit is not None and symbols & _LENGTHS:
        yield from workloads.of(info, batch_size=1, length=length, space=_space(subject))
    elif limit is None and symbols & LONGEST_SOUND.keys():
        for work in workloads.of(info, batch_size=1, length=1):
            yield replace(work, sizes={name: LONGEST_SOUND.get(name, size) for name, size in work.sizes.items()})


def _bounded(subject: CheckContext, length: int) -> int:
    config = subject.reference.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    by_scores = math.isqrt(LARGEST_BYTES // (4 * (heads if isinstance(heads, int) else 1)))
    if subject.reference.model.num_parameters() > LARGEST_MODEL:
        length = min(length, text_inputs.LENGTH_BOUND)
    return min(length, by_scores, LARGEST_BYTES // (4 * int(config.vocab_size)))


def _sizes_kept(subject: CheckContext, info: GraphInfo, work: workloads.Workload, *, case: Case) -> Iterator[CheckRow]:
    try:
        outputs = subject.session(info.role).run(work.feeds(info, seed=SEED))
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    for spec in info.outputs:
        promised = [work.sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape]
        shape = list(outputs[spec.name].shape) if spec.name in outputs else None
        # An axis whose size follows from others by the model's own arithmetic (frames of sound) has no promise.
        open_axes = [isinstance(size, str) for size in promised]
        kept = shape is not None and len(shape) == len(promised) and all(
            is_open or size == wanted for is_open, size, wanted in zip(open_axes, shape, promised, strict=True)
        )  # fmt: skip
        if kept:
            yield case.row("equal", output=spec.name, passed=True)
        else:
            yield case.row("shape", output=spec.name, detail=f"{shape} where its symbols promise {promised}")


def _recorded(subject: CheckContext, info: GraphInfo, found: GraphInfo, case: Case) -> Iterator[CheckRow]:
    for name in ("inputs", "outputs", "opset", "ir_version", "weight_files"):
        recorded, here = getattr(info, name), getattr(found, name)
        if recorded != here:
            yield case.row("different", detail=f"{name}: the export recorded {recorded}, the file has {here}")
    for file in info.weight_files:
        if not (subject.stage_dir / file).is_file():
            yield case.row("missing", output=file, detail="the graph's weights are not in the stage")


def _named(info: GraphInfo, case: Case) -> Iterator[CheckRow]:
    unwanted: Mapping[str, set[str]] = {
        spec.name: {axis for axis in spec.shape if isinstance(axis, str) and axis not in SYMBOLS}
        for spec in (*info.inputs, *info.outputs)
    }
    for spec in (*info.inputs, *info.outputs):
        if unwanted[spec.name]:
            yield case.row("shape", output=spec.name, detail=f"{spec.shape} has axes that the contract does not name")
        if not spec.shape or not isinstance(spec.shape[0], str):
            yield case.row("shape", output=spec.name, detail=f"axis 0 of {spec.shape} is not batch_size")


def _open(subject: CheckContext, info: GraphInfo, case: Case) -> Iterator[CheckRow]:
    """Texts have one length only where the entry allows that, or the export says that it gave the others up."""
    given_up = [each.what for each in subject.stage.read_export().fallbacks]
    if subject.item.model.entry.may_be_fixed or any(f"{info.role}: dynamic -> fixed" in what for what in given_up):
        return
    for spec in info.inputs:
        if any(isinstance(length, int) for length in _lengths(subject, spec)):
            said = f"{spec.shape} has one length only, and neither the entry nor the export says why"
            yield case.row("shape", output=spec.name, detail=said)


def _lengths(subject: CheckContext, spec: TensorSpec) -> Sequence[int | str]:
    """The axes of one input on which tokens are counted."""
    if spec.name.startswith("past_key_values."):
        return spec.shape[2:3]
    if "input_ids" not in subject.reference.parameters:
        return ()
    if spec.name in {each.name for each in _further(subject) if each.per == "token"}:
        return spec.shape[1:2]
    return spec.shape[-1:] if spec.name in _INTEGERS else ()


def _typed(subject: CheckContext, info: GraphInfo, case: Case) -> Iterator[CheckRow]:
    wanted = {**dict.fromkeys(_INTEGERS, "int64"), **{each.name: each.dtype for each in _further(subject)}}
    for spec in info.inputs:
        if spec.dtype != wanted.get(spec.name, spec.dtype):
            said = f"{spec.dtype} where every consumer feeds {wanted[spec.name]}"
            yield case.row("dtype", output=spec.name, detail=said)


def _further(subject: CheckContext) -> tuple[FurtherInput, ...]:
    """The inputs that a model of text has beside its tokens; nothing for any other model."""
    space = _space(subject)
    return space.further if space else ()


def _paired(info: GraphInfo, case: Case) -> Iterator[CheckRow]:
    """optimum feeds the outputs of a cache back by their order, not by their names."""
    past = [spec.name.removeprefix("past_key_values.") for spec in info.inputs if spec.name.startswith("past_")]
    present = [spec.name.removeprefix("present.") for spec in info.outputs if spec.name.startswith("present.")]
    if past != present:
        yield case.row("different", detail=f"past inputs {past} and present outputs {present} stand in another order")


def _weights(subject: CheckContext, info: GraphInfo) -> Iterator[Weight]:
    import onnx

    model = onnx.load(subject.stage_dir / info.path, load_external_data=False)
    return weights_of(model, path=info.path)


def _taken(subject: CheckContext, info: GraphInfo, case: Case) -> Iterator[CheckRow]:
    """A single graph takes all that the source model takes; several share it."""
    declared = {spec.name for spec in info.inputs}
    for name in subject.reference.input_names if len(subject.graphs) == 1 else ():
        single_type = name == "token_type_ids" and subject.space.token_types == 1
        if name not in declared and not single_type:
            yield case.row("missing", output=name, detail="the source model takes it, the graph does not")


CHECKS = checks_of(placement, contract, external_data, dynamic, recipe_cases, once=(dynamic,))
