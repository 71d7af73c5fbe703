"""What a classifier's logits go through before they are scores: as the library that its task is for reads config.json.

transformers' pipelines and sentence-transformers' CrossEncoder decide by what the configuration says in words, and by
the number of labels only where it says nothing. They do not agree with each other: the task decides whose rule it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnx_fleet.conventions import sentence_modules
from onnx_fleet.errors import ExportUnsupported

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

Name = Literal["sigmoid", "softmax", "none"]
Function = Callable[["Tensor"], "Tensor"]
"""A function of float32 [batch_size, labels] that keeps the shape."""


def of(task: str, config: PretrainedConfig, *, folder: Path) -> Function:
    """Return what makes scores of the logits of a model that is used for a task.

    Args:
        folder: the source's files: sentence-transformers keeps settings of its own beside config.json.
    Raises:
        ExportUnsupported: a re-ranker names a function that is no module of torch.
    """
    if task == "text-ranking":
        return _of_re_ranker(config, folder=folder)
    return _FUNCTIONS[_of_sound(config) if task == "audio-classification" else of_pipeline(config)]


def of_pipeline(config: PretrainedConfig) -> Name:
    """Return the choice of transformers' pipelines for text and images.

    They ask for config.function_to_apply last, which no configuration with a label gets to.
    """
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"


def _of_sound(config: PretrainedConfig) -> Name:
    """Return the choice of transformers' pipeline for sound, where a single label gets a softmax over one."""
    if config.problem_type == "regression":
        return "none"
    return "sigmoid" if config.problem_type == "multi_label_classification" else "softmax"


def _of_re_ranker(config: PretrainedConfig, *, folder: Path) -> Function:
    """Return the choice of CrossEncoder: the function that its settings name, or else the sigmoid of a single label.

    A function that is no part of torch is left out, as CrossEncoder does unless it is told to trust the repo's code.
    """
    named = sentence_modules.activation_named(folder, config.to_dict())
    if named is None or not named.startswith("torch."):
        return _FUNCTIONS["sigmoid" if config.num_labels == 1 else "none"]
    from torch.nn import Module

    module, _, name = named.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        found = None
    if not (isinstance(found, type) and issubclass(found, Module)):
        raise ExportUnsupported(
            f"the re-ranker's activation_fn {named} is not a module of the installed torch; leave the recipe "
            f"probabilities out of its entry, and apply the function to the logits"
        )
    function: Function = found()
    return function


_FUNCTIONS: Mapping[Name, Function] = {
    "sigmoid": lambda logits: logits.sigmoid(),
    "softmax": lambda logits: logits.softmax(dim=-1),
    "none": lambda logits: logits.clone(),
}
