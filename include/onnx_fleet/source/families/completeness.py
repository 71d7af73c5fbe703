"""What becomes of every tensor of a checkpoint: it is in the loaded model, or left out for a reason, or unexplained.

Imports torch and transformers. The names come from the files, not from the loader, which keeps some of what it drops to
itself; where each goes is asked of transformers' own table of renamed and merged tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from onnx_fleet.conventions import sentence_modules
from onnx_fleet.conventions.sentence_modules import PREFIX
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.source import checkpoint
from onnx_fleet.source.checkpoint import StoredTensor
from onnx_fleet.source.families import chain, model_class

_SHOWN = 5
_PICKLES = "pytorch_model*.bin"
_COUNTED = re.compile(
    r"(^|\.)(position_ids|token_type_ids|relative_position_index|num_batches_tracked|bbox_coord_\w+)$"
)
"""The names of integer buffers that older versions of transformers saved."""
_FREQUENCIES = re.compile(r"(^|[._])inv_freq$")
_MASKS = re.compile(r"(^|\.)(attn|attention|crossattention|self_attn)\.(bias|masked_bias)$")
"""The names of causal masks that GPT-2's kind keeps as a bias: [1, 1, length, length], or one number."""
_POOLER = re.compile(r"(^|\.)pooler\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Tensors of the checkpoint that the loaded model does not have, for one reason."""

    tensors: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{_listed(self.tensors)}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account of every tensor of a checkpoint: where it is."""

    placed: Mapping[str, str]
    """The name in the loaded model of each checkpoint tensor, or the first name of those that it became part of."""
    converted: frozenset[str]
    """The names in the checkpoint of tensors that became part of others, or were transposed."""
    made: frozenset[str]
    """The parts of names of what those tensors become."""
    left_out: tuple[LeftOut, ...]
    unexplained: tuple[str, ...]
    """The names in the checkpoint of tensors that nothing accounts for."""
    fault: str
    """The reason why the loaded class is not the source's, for people; empty where it is, or may stand for it."""

    @property
    def complete(self) -> bool:
        return not self.unexplained and not self.fault


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The facts about a source by which a tensor is judged."""

    item: WorkItem
    model: PreTrainedModel
    source_dir: Path
    tensors: Mapping[str, StoredTensor]
    """The tensors of safetensors files; empty where the weights are in pickle."""
    placed: Mapping[str, str]
    named: PreTrainedModel | None
    """The model without weights of the class that the source names; None where the loaded class is that one."""
    narrowing: str


def account(item: WorkItem, model: PreTrainedModel, *, source_dir: Path) -> Account:
    """Account for a loaded model, with weights or placeholders, by its checkpoint's names and its source's class."""
    tensors = checkpoint.read(source_dir)
    names = _names(tensors, source_dir)
    placed, converted = places(model, names)
    config = model_class.config_of(item, source_dir)
    chosen = model_class.choose(item, config, source_dir=source_dir)
    # A recipe may make a class of its own from the source's.
    differs = chosen.named is not None and not isinstance(model, chosen.named)
    source = _Source(
        item=item,
        model=model,
        source_dir=source_dir,
        tensors=tensors,
        placed=placed,
        named=model_class.blank(chosen.named, config) if differs and chosen.named else None,
        # Nobody asks for less than the source's class where that one serves the task.
        narrowing="" if chosen.own is chosen.named else model_class.narrowing(item, source_dir=source_dir),
    )
    reasons: dict[str, list[str]] = {}
    unexplained = []
    for name in names:
        if name in placed:
            continue
        reason = next((reason for excuse in _EXCUSES if (reason := excuse(name, source))), "")
        if reason:
            reasons.setdefault(reason, []).append(name)
        else:
            unexplained.append(name)
    return Account(
        placed=placed,
        converted=converted,
        made=_made(model) if converted else frozenset(),
        left_out=tuple(LeftOut(tensors=tuple(found), reason=reason) for reason, found in reasons.items()),
        unexplained=tuple(unexplained),
        fault=_fault(source, lacks=len(placed) < len(names)),
    )


def require_complete(item: WorkItem, found: Account, *, model: PreTrainedModel) -> None:
    """Refuse a model that would be published without a part of itself.

    Raises:
        ExportUnsupported: a tensor of the checkpoint is in no place, or the class is another model.
    """
    if found.complete:
        return
    raise ExportUnsupported(f"{item.model.at_commit}: {complaint(item, found, model=model)}")


def complaint(item: WorkItem, found: Account, *, model: PreTrainedModel) -> str:
    """Say for people what is missing, which class the source wants, and what to do."""
    if found.fault:
        return found.fault
    loaded, wanted = type(model).__name__, item.model.architecture
    known = hasattr(transformers, wanted)
    lost = f"{loaded} has no place for {_listed(found.unexplained)}"
    if not wanted or wanted == loaded:
        return (
            f"{lost}, which the checkpoint has; a bundle without them would be another model: name the class that they "
            f"belong to, set the task that it serves, or take a revision that has only {loaded}'s"
        )
    if known:
        return (
            f"{lost}, which belong to {wanted}, the class that its config.json names; set task: to one that {wanted} "
            f"serves, or write task: {item.model.task} in its entry if nothing more than that is wanted of it"
        )
    return (
        f"{lost}, and transformers has no {wanted}, the class that its config.json names; export it with "
        f"trust_remote_code if the repo has the code of that class, with a recipe that does their work, or take "
        f"another revision"
    )


def contradicted(model: PreTrainedModel, source_dir: Path, *, unexpected: Iterable[str]) -> list[str]:
    """Return the tensors that account would call placed, and that the loader says it did not load.

    Args:
        unexpected: the tensors in the loader's own report, by the names that it gave them.
    """
    placed, _ = places(model, _names(checkpoint.read(source_dir), source_dir))
    return sorted(set(unexpected) & set(placed.values()))


def places(model: PreTrainedModel, names: Sequence[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Return where checkpoint tensors go in a model.

    Returns:
        The name in the model by the name in the checkpoint, and the names in the checkpoint of tensors that
        transformers merges, splits or transposes.
    """
    state = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    placed, converted = {}, set()
    for name in sorted(names, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if renamed not in state and name in state:
            renamed, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
        if renamed in state:
            placed[name] = renamed
            if pattern is not None:
                converted.add(name)
    return placed, frozenset(converted)


def _made(model: PreTrainedModel) -> frozenset[str]:
    """Return the plain ends of the names of what transformers merges, splits and transposes tensors into."""
    converters = (each for each in get_model_conversion_mapping(model) if isinstance(each, WeightConverter))
    patterns = (pattern.replace("\\.", ".") for each in converters for pattern in each.target_patterns)
    ends = (re.split(r"[^\w.]", pattern.rstrip("$"))[-1].lstrip("0123456789.") for pattern in patterns)
    return frozenset(filter(None, ends))


def _fault(source: _Source, *, lacks: bool) -> str:
    """Say why the loaded class is another model than the one that the source names; empty where it is not."""
    if source.named is None:
        return ""
    loaded, named = type(source.model), type(source.named)
    if _bare(source.named) is loaded or _bare(source.model) is named:
        return ""  # with or without a head; which tensors that costs is asked of each of them
    if lacks and (source.narrowing or _is_of_pretraining(source)):
        return ""
    task = source.item.model.task
    said = "its entry" if source.item.model.entry.task else "the Hub"
    return (
        f"{named.__name__} is the class that its config.json names, and {said} says {task}, for which transformers "
        f"would load it as {loaded.__name__}, another model; set task: to one that {named.__name__} serves"
    )


def _bare(model: PreTrainedModel) -> type | None:
    """Return the class of the model without its head."""
    return type(getattr(model, model.base_model_prefix, None)) if model.base_model_prefix else None


def _buffer(name: str, source: _Source) -> str:
    tensor = source.tensors.get(name)
    whole = tensor is None or tensor.dtype.startswith(("int", "uint", "bool"))
    table = tensor is None or tensor.count == 1 or (tensor.shape[:2] == (1, 1) and len(tensor.shape) == 4)
    line = tensor is None or len(tensor.shape) == 1
    computed = (
        (_COUNTED.search(name) and whole) or (_FREQUENCIES.search(name) and line) or (_MASKS.search(name) and table)
    )
    return "the model computes it by itself, and older versions of transformers saved it" if computed else ""


def _ignored(name: str, source: _Source) -> str:
    """Explain a tensor that transformers' own class ignores; a class that only replaces the source's is not asked."""
    judge = source.named if source.named is not None and not source.narrowing else source.model
    patterns = getattr(judge, "_keys_to_ignore_on_load_unexpected", None) or ()
    if any(re.search(pattern, name) for pattern in patterns):
        return f"{type(judge).__name__} itself leaves it aside, by transformers' list"
    return ""


def _pooler(name: str, source: _Source) -> str:
    return f"{source.item.model.task} has no pooled output" if _POOLER.search(name) else ""


def _head_of_pretraining(name: str, source: _Source) -> str:
    """Explain another head of pre-training, where the source names the loaded class or a class of pre-training."""
    is_own = type(source.model).__name__ == source.item.model.architecture
    if not (is_own or _is_of_pretraining(source)) or model_class.uses(source.source_dir) == "head":
        return ""
    cls = _pretraining(source.model)
    if cls is None or name not in places(model_class.blank(cls, source.model.config), [name])[0]:
        return ""
    return f"a head of pre-training that {type(source.model).__name__} does not have"


def _not_asked_for(name: str, source: _Source) -> str:
    """Explain a part of the class that the source names, where the entry or the source asks for less than the whole."""
    if not source.narrowing:
        return ""
    if source.named is not None:
        known = name in places(source.named, [name])[0]
        return f"a part of {type(source.named).__name__}, and {source.narrowing}" if known else ""
    if source.item.model.architecture:
        return ""
    prefix = f"{source.model.base_model_prefix}."
    is_head = not name.startswith(prefix) and any(other.startswith(prefix) for other in source.placed)
    return f"a head, and {source.narrowing}" if is_head else ""


def _module_not_asked_for(name: str, source: _Source) -> str:
    """Explain a module behind the transformer that no one reads, because the entry asks for another head."""
    asked = source.item.model.entry.task is not None and chain.of(source.model) is None
    return f"a module behind the transformer, and {source.narrowing}" if asked and name.startswith(PREFIX) else ""


def _duplicate(name: str, source: _Source) -> str:
    """Explain a tensor that is saved twice, as tied weights were."""
    tensor = source.tensors.get(name)
    if tensor is None or tensor.count < 2:
        return ""
    values: np.ndarray | None = None
    for other, place in source.tensors.items():
        if other not in source.placed or (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
            continue
        values = tensor.array() if values is None else values
        if not (values.reshape(-1)[0] == values).all() and values.tobytes() == place.array().tobytes():
            return "saved twice: the same values are loaded under another name"
    return ""


def _pretraining(model: PreTrainedModel) -> type[PreTrainedModel] | None:
    mapping = transformers.AutoModelForPreTraining._model_mapping
    found: Any = mapping.get(type(model.config), None)
    first: type[PreTrainedModel] | None = found[0] if isinstance(found, list | tuple) else found
    return first


def _is_of_pretraining(source: _Source) -> bool:
    """Say whether the source's class has several heads of which the task's is one, as BERT's of pre-training has."""
    if source.named is None or TASKS[source.item.model.task].auto_classes == ("AutoModel",):
        return False
    return type(source.named) is _pretraining(source.model) and type(source.named).__name__.endswith("ForPreTraining")


_EXCUSES: tuple[Callable[[str, _Source], str], ...] = (
    _buffer,
    _ignored,
    _pooler,
    _head_of_pretraining,
    _not_asked_for,
    _module_not_asked_for,
    _duplicate,
)


def _pickled(source_dir: Path) -> Iterator[str]:
    """Iterate over the names of the model's own tensors that lie in pickle; their values are not read."""
    from transformers.modeling_utils import load_state_dict

    for path in sorted(source_dir.glob(_PICKLES)):
        yield from load_state_dict(str(path), map_location="meta")


def _pickled_of_modules(source_dir: Path) -> Iterator[str]:
    """Iterate over the same of a sentence-transformers source's modules, in pickle beside a safetensors model."""
    from transformers.modeling_utils import load_state_dict

    for module in sentence_modules.listed(source_dir):
        folder = source_dir / module.path
        path = folder / sentence_modules.PICKLED_WEIGHTS
        if module.path and path.is_file() and not (folder / sentence_modules.WEIGHTS).is_file():
            yield from (module.prefix + name for name in load_state_dict(str(path), map_location="meta"))


def _names(tensors: Mapping[str, StoredTensor], source_dir: Path) -> tuple[str, ...]:
    """Return the name of every tensor that the source's files hold, in safetensors or in pickle."""
    return (*(tensors or _pickled(source_dir)), *_pickled_of_modules(source_dir))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
