"""The class of transformers that a source is loaded as: the one that it names, wherever that serves the task.

Imports torch and transformers. Another class than the source's own is loaded in three cases only: the entry itself
names the task, the source's modules.json says that its hidden states are all that is used, or the other class is the
same model with or without a head. What that leaves out, families.completeness accounts for, tensor by tensor.
"""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _get_model_class

from onnx_fleet.conventions import sentence_modules
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.source.families import static_embedding

Use = Literal["hidden_states", "head"]

_HIDDEN_STATES = "last_hidden_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClass:
    """The classes with which a source can be loaded."""

    auto: Any
    """The auto class of the task, which also loads classes that are not transformers' own."""
    own: type[PreTrainedModel] | None
    """The class that loads it; None where only the auto class can tell, as with code of the source's own."""
    named: type[PreTrainedModel] | None
    """The class that config.json names; None where transformers has none of that name for this configuration."""


def config_of(item: WorkItem, source_dir: Path) -> PretrainedConfig:
    """Read the source's config.json with transformers; code of the source's own runs at the entry's commit only."""
    static_embedding.register()
    config: PretrainedConfig = transformers.AutoConfig.from_pretrained(
        source_dir, trust_remote_code=item.model.entry.trust_remote_code == item.model.commit
    )
    return config


def choose(item: WorkItem, config: PretrainedConfig, *, source_dir: Path) -> ModelClass:
    """Choose the source's own class where it serves the task, else the task's for the source's configuration."""
    auto = auto_class(item.model.task, config)
    named = of_name(item.model.architecture, config)
    if _is_remote(item, config, auto):
        return ModelClass(auto=auto, own=None, named=named)
    if named is not None and _serves(named, item.model.task, config):
        return ModelClass(auto=auto, own=named, named=named)
    if config.is_encoder_decoder and narrowing(item, source_dir=source_dir) and _takes_tokens_alone(item.model.task):
        encoders = transformers.AutoModelForTextEncoding._model_mapping
        if type(config) in encoders:
            return ModelClass(auto=auto, own=_get_model_class(config, encoders), named=named)  # type: ignore[no-untyped-call]
    known = type(config) in auto._model_mapping
    own = _get_model_class(config, auto._model_mapping) if known else None  # type: ignore[no-untyped-call]
    return ModelClass(auto=auto, own=own, named=named)


def auto_class(task: str, config: PretrainedConfig) -> Any:
    """Return the first of the task's auto classes that knows the configuration."""
    classes = [getattr(transformers, name) for name in TASKS[task].auto_classes]
    return next((known for known in classes if type(config) in known._model_mapping), classes[0])


def of_name(name: str, config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """Return transformers' class of that name, if it is one for such a configuration."""
    found = getattr(transformers, name, None) if name else None
    if not (inspect.isclass(found) and issubclass(found, PreTrainedModel)):
        return None
    return found if found.config_class is type(config) else None


def narrowing(item: WorkItem, *, source_dir: Path) -> str:
    """Say who wants less than the source's class offers, for people; empty where nobody does.

    The Hub's tag does not count: it is often set by a program, and says what a model is near to.
    """
    if item.model.entry.task is not None:
        return f"the entry asks for {item.model.task}"
    if uses(source_dir) == "hidden_states":
        return "its modules.json uses the hidden states alone"
    return ""


def uses(source_dir: Path) -> Use | None:
    """Return what a sentence-transformers source uses of its transformer, by its own files; None for other sources."""
    modules = sentence_modules.listed(source_dir)
    if not modules or modules[0].kind not in sentence_modules.TRANSFORMERS:
        return None
    task = sentence_modules.transformer_task(modules, source_dir)
    return "hidden_states" if task == "feature-extraction" else "head"


def output_names(cls: type[PreTrainedModel]) -> frozenset[str]:
    """Return the outputs that the class's forward declares."""
    try:
        said = typing.get_type_hints(inspect.unwrap(cls.forward)).get("return")
    except (NameError, TypeError, AttributeError):
        return frozenset()
    kinds = [kind for kind in (said, *typing.get_args(said)) if inspect.isclass(kind) and is_dataclass(kind)]
    return frozenset(field.name for kind in kinds for field in fields(kind))


def blank(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Make a model without memory for its weights, to ask for the names of its tensors."""
    with torch.device("meta"):
        return cls(config)


def _serves(named: type[PreTrainedModel], task: str, config: PretrainedConfig) -> bool:
    """Say whether transformers loads the class for the task or, where hidden states are asked for, it returns them."""
    for name in TASKS[task].auto_classes:
        mapping = getattr(transformers, name)._model_mapping
        known = mapping.get(type(config), ())
        if named in (known if isinstance(known, list | tuple) else (known,)):
            return True
    return TASKS[task].auto_classes == ("AutoModel",) and _HIDDEN_STATES in output_names(named)


def _takes_tokens_alone(task: str) -> bool:
    return TASKS[task].family == "encoder" and TASKS[task].auto_classes == ("AutoModel",)


def _is_remote(item: WorkItem, config: PretrainedConfig, auto: Any) -> bool:
    """Say whether the class is the source's own code, which the entry allows at this commit."""
    allowed = item.model.entry.trust_remote_code == item.model.commit
    return allowed and auto.__name__ in (getattr(config, "auto_map", None) or {})
