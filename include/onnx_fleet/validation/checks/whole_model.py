"""The reference is proven, too: it is the source's own class, with every tensor of its checkpoint, and every input.

Whatever the export and the reference lose alike, no comparison of the two can see. So the reference is held to what is
no work of ours: the names and bytes of the source's files, and the signature of the source's class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_fleet import recipes
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.comparison import Case, Outputs, compare, parts
from onnx_fleet.source import checkpoint
from onnx_fleet.validation.checks.context import Check, CheckContext
from onnx_fleet.validation.checks.single_graph import Feeds

if TYPE_CHECKING:
    from onnx_fleet.source.families.completeness import Account
    from onnx_fleet.source.families.source_inputs import Unfed

log = logging.getLogger(__name__)

Probe = Callable[[CheckContext], Feeds]

_SHOWN = 5
_NOT_OUTPUTS = frozenset(
    {
        "loss", "loss_dict", "hidden_states", "attentions", "cross_attentions", "decoder_hidden_states",
        "decoder_attentions", "encoder_hidden_states", "encoder_attentions", "past_key_values", "mems",
    }
)  # fmt: skip
"""What a forward returns besides outputs: its inside, and what it keeps for the next call."""


def whole_model(subject: CheckContext, *, probe: Probe) -> Iterator[CheckRow]:
    """The reference is the source's class with every tensor of its files, and the graphs lack none of its inputs."""
    from onnx_fleet.source.families import completeness

    account = completeness.account(subject.item, subject.reference.model, source_dir=subject.source_dir)
    yield from _class(subject, account)
    yield from _tensors(subject, account)
    if subject.repeats:
        return  # of the same class, with tensors of the same names
    try:
        feeds = probe(subject)
        base = subject.reference(feeds)
    except ValidationFailed as err:
        yield subject.case("whole_model", "the source's model, run").row("error", detail=str(err))
        return
    yield from _outputs(subject, account, feeds)
    yield from _inputs(subject, feeds, base)


def _class(subject: CheckContext, account: Account) -> Iterator[CheckRow]:
    from onnx_fleet.source.families import model_class

    case = subject.case("whole_model", "the class that the source names")
    model, named = subject.reference.model, subject.item.model.architecture
    config = model_class.config_of(subject.item, subject.source_dir)
    wanted = model_class.choose(subject.item, config, source_dir=subject.source_dir).own
    if account.fault:
        yield case.row("different", detail=account.fault)
    elif wanted is not None and not isinstance(model, wanted):
        said = f"the reference is a {type(model).__name__}, and the source's own files ask for {wanted.__name__}"
        yield case.row("different", detail=said)
    else:
        yield case.row("equal", passed=True, detail=f"{type(model).__name__}; config.json names {named or 'none'}")


def _tensors(subject: CheckContext, account: Account) -> Iterator[CheckRow]:
    """Every tensor of the source's files is in the reference with its own values, or left out for a reason."""
    case = subject.case("whole_model", "every tensor of the source's files")
    for name in account.unexplained[:_SHOWN]:
        said = f"{len(account.unexplained)} tensors of the source's files are nowhere in the reference"
        yield case.row("missing", output=name, detail=said)
    wrong = list(_other_values(subject, account))
    if wrong and _prepares(subject):
        said = f"the entry's recipe changes {', '.join(wrong[:_SHOWN])} before anything is compared"
        yield case.row("skipped", passed=True, detail=said)
        wrong = []
    for name in wrong[:_SHOWN]:
        said = f"{len(wrong)} tensors of the reference have other values than the source's files"
        yield case.row("different", output=name, detail=said)
    if not account.unexplained and not wrong:
        left_out = "; ".join(f"without {each}" for each in account.left_out)
        said = f"{len(account.placed)} tensors" + (f"; {left_out}" if left_out else "")
        yield case.row("equal", passed=True, detail=said)


def _prepares(subject: CheckContext) -> bool:
    """Whether the entry's recipe changes the model that the graphs are compared with."""
    name = subject.item.model.entry.recipe
    return name is not None and recipes.find(name).prepare is not None


def _other_values(subject: CheckContext, account: Account) -> Iterator[str]:
    """Tensors that were lost or made up while they were loaded; what several became is compared by its sums."""
    stored, loaded = checkpoint.read(subject.source_dir), subject.reference.weights
    merged: dict[str, list[str]] = {}
    for name, place in account.placed.items():
        if name not in stored or place not in loaded:
            continue
        if name in account.converted:
            merged.setdefault(place, []).append(name)
        elif not _same_values(stored[name].array(), loaded[place]):
            yield name
    for place, names in merged.items():
        if sum(stored[name].count for name in names) != loaded[place].size:
            continue  # parted among several
        sums = sum(_sums(stored[name].array()) for name in names)
        if not np.allclose(sums, _sums(loaded[place]), rtol=1e-6):
            yield place


def _same_values(stored: np.ndarray, loaded: np.ndarray) -> bool:
    """Compare a tensor of the source's files with the reference's, in that one's type; NaN equals itself."""
    return stored.shape == loaded.shape and all(
        np.array_equal(values.astype(own.dtype, copy=False), own, equal_nan=True)
        for values, own in parts(stored, loaded)
    )


def _sums(values: np.ndarray) -> np.ndarray:
    """What no order of the values changes."""
    wide = (part.astype(np.float64) for (part,) in parts(values))
    sums: np.ndarray = sum((np.array([np.abs(part).sum(), np.square(part).sum()]) for part in wide), np.zeros(2))
    return sums


def _outputs(subject: CheckContext, account: Account, feeds: Feeds) -> Iterator[CheckRow]:
    """Nothing that the checkpoint lacks is in an output, and no output with weights of its own is lost."""
    case = subject.case("whole_model", "the outputs, by the weights that they are made with")
    try:
        reach = subject.reference.reach(feeds)
    except ValidationFailed as err:
        yield case.row("skipped", passed=True, detail=f"PyTorch does not say what its outputs are made with: {err}")
        return
    given = frozenset[str]().union(*reach.graphs.values())
    invented = sorted(reach.unloaded(account.placed.values(), account.made) & given)
    for name in invented[:_SHOWN]:
        yield case.row(
            "missing", output=name, detail="an output is made with it, and the source's files do not have it"
        )
    lost = {
        name: weights - given for name, weights in reach.own.items() if name not in _NOT_OUTPUTS | _dropped(subject)
    }
    lost = {
        name: weights
        for name, weights in lost.items()
        if not all(map(_is_pooler, weights)) and not _matter(subject, weights, feeds, case=case)
    }
    for name, weights in lost.items():
        said = f"the source's class makes it with {', '.join(sorted(weights)[:_SHOWN])}, and no output of the graphs is"
        yield case.row("missing", output=name, detail=said)
    if not invented and not lost:
        yield case.row("equal", passed=True, detail=f"{len(given)} parameters are in {', '.join(reach.graphs)}")


def _dropped(subject: CheckContext) -> frozenset[str]:
    """Outputs that the entry's recipe leaves out."""
    name = subject.item.model.entry.recipe
    return frozenset(recipes.find(name).drop if name else ())


def _matter(subject: CheckContext, weights: frozenset[str], feeds: Feeds, *, case: Case) -> bool:
    """Whether outputs of the graphs move with them all the same: detectors choose by scores, which has no gradient."""
    others = subject.reference.with_noise(weights, feeds)
    return not all(row.passed for row in compare(subject.reference(feeds), others, case=case))


def _is_pooler(name: str) -> bool:
    """A vector of a whole text that tasks without one do not return: it is recorded with what is left out."""
    return "pooler." in name


def _inputs(subject: CheckContext, feeds: Feeds, base: Outputs) -> Iterator[CheckRow]:
    """Every tensor that the source's class takes is an input of a graph, or left to the model for a reason."""
    from onnx_fleet.source.families import source_inputs

    case = subject.case("whole_model", "the inputs that the source's class takes")
    model = subject.reference.model
    fed = {spec.name for info in subject.graphs.values() for spec in info.inputs}
    left = source_inputs.unfed(subject.item, model, fed=fed, made=_made(subject))
    faults = [row for each in left if (row := _lost(subject, each, feeds, base, case=case)) is not None]
    yield from faults
    if not faults:
        names = ", ".join(each.name for each in left)
        said = f"{len(source_inputs.taken(model)) - len(left)} of its tensors are fed"
        yield case.row("equal", passed=True, detail=said + (f"; the model fills in {names}" if names else ""))


def _lost(subject: CheckContext, unfed: Unfed, feeds: Feeds, base: Outputs, *, case: Case) -> CheckRow | None:
    """A row where the graphs lack an input; None where they may."""
    if unfed.reason and not unfed.doubtful:
        return None
    ran, moved = False, ""
    for values in _candidates(subject, feeds):
        try:
            found = subject.reference({**feeds, unfed.name: values})
        except Exception as err:  # noqa: BLE001  # a model that is given what it was not made for may fail in any way
            log.debug("%s of %s: %s", unfed.name, values.shape, err)
            continue
        ran = True
        off = [row for row in compare(base, found, case=case) if not row.passed]
        if off:
            sizes = ", ".join(f"{row.output} {row.max_abs_diff:.2g}" for row in off if row.max_abs_diff is not None)
            moved = (
                f"given {list(values.shape)} of {values.dtype}, PyTorch's own outputs move: {sizes or off[0].detail}"
            )
            break
    if ran and not moved:
        return None
    said = moved or "no values were found that it can be tried with"
    return case.row("missing", output=unfed.name, detail=f"the source's class takes it, no graph does; {said}")


def _candidates(subject: CheckContext, feeds: Feeds) -> Iterator[np.ndarray]:
    """Values to try an unknown input with: like the inputs that there are, or with a few numbers to each place."""
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = []
    for array in feeds.values():
        shapes += [array.shape, *((*array.shape[:2], size) for size in (4, 2, 1)), array.shape[:1]]
        if array.ndim == 4:
            shapes += [(array.shape[0], *array.shape[2:]), (array.shape[0], array.shape[2] * array.shape[3])]
    sight = _image_size(subject.reference.model.config)
    shapes.append((len(next(iter(feeds.values()))), 3, sight, sight))
    for shape in dict.fromkeys(shapes):
        yield np.sort(rng.integers(0, 2, size=shape), axis=-1)
        yield rng.standard_normal(shape).astype(np.float32)


def _image_size(config: Any) -> int:
    holders = (config, getattr(config, "vision_config", None))
    sizes = (getattr(holder, name, None) for holder in holders for name in ("input_size", "image_size"))
    return next((size for size in sizes if isinstance(size, int)), 224)


def _made(subject: CheckContext) -> frozenset[str]:
    """What the source's own tokenizer and preprocessor make, by their own word."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    from onnx_fleet.source.families import source_inputs

    names: set[str] = set()
    silent = subject.item.family == "speech" and source_inputs.makes_no_mask(subject.source_dir)
    if "input_ids" in subject.reference.parameters and (subject.stage_dir / "tokenizer.json").is_file():
        names |= set(subject.source_tokenizer.model_input_names)
    if (subject.source_dir / "preprocessor_config.json").is_file():
        for kind in (AutoImageProcessor, AutoFeatureExtractor):
            try:
                made: Any = kind.from_pretrained(subject.source_dir)  # type: ignore[no-untyped-call]
                names |= set(made.model_input_names)
                break
            except (OSError, ValueError, ImportError, KeyError):  # it is of the other kind, or not to be built here
                continue
    return frozenset(names - {"attention_mask"} if silent else names)


def checks(probe: Probe) -> tuple[Check, ...]:
    """Return the check, fed as each family is."""
    proves = (whole_model.__doc__ or "").partition("\n")[0]
    return (Check(name="whole_model", proves=proves, run=partial(whole_model, probe=probe)),)
