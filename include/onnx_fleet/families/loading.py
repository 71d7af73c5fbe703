"""Load a source's model with transformers, or say why it cannot be. Imports torch and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _get_model_class

from onnx_fleet import recipes
from onnx_fleet.errors import ExportUnsupported, ModelInvalid
from onnx_fleet.hollow import Hollow
from onnx_fleet.plan import WorkItem
from onnx_fleet.tasks import TASKS

_UNUSED_PARAMETERS = ("pooler.",)
"""Parameters that no output of ours depends on for a bare model: a checkpoint may lack them."""


def load(item: WorkItem, source_dir: Path, hollow: Hollow | None = None) -> PreTrainedModel:
    """The checkpoint in float32, in evaluation mode, with eager attention, prepared as its recipe wants it.

    Args:
        hollow: stands for the checkpoint's weights; only for classes of transformers' own.
    Raises:
        ModelInvalid: the checkpoint lacks weights that the task's outputs depend on, or its files cannot be read.
        ExportUnsupported: transformers has no such model for the task.
    """
    model, entry = item.model, item.model.entry
    subject = f"{model.repo_id}@{model.commit[:8]}"
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = transformers.AutoConfig.from_pretrained(
            source_dir, trust_remote_code=entry.trust_remote_code == model.commit
        )
        settings = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
        auto = auto_class(model.task, config)
        if hollow and type(config) in auto._model_mapping:
            known = _get_model_class(config, auto._model_mapping)  # type: ignore[no-untyped-call]
            module, info = known.from_pretrained(None, config=config, state_dict=hollow.state, **settings)
            hollow.missing = frozenset(info["missing_keys"])
        else:
            module, info = auto.from_pretrained(
                source_dir,
                config=config,
                use_safetensors=entry.allow_pickle != model.commit,
                trust_remote_code=entry.trust_remote_code == model.commit,
                **settings,
            )
    except ValueError as err:
        raise ExportUnsupported(
            f"{subject}: transformers has no {model.task} model for {model.architecture} ({err}); set another task in "
            f"its entry"
        ) from err
    except ImportError as err:
        lines = str(err).strip().splitlines()
        raise ExportUnsupported(
            f"{subject}: {model.architecture} needs a package that is not installed here "
            f"({lines[0] if lines else err.name}); install it on every worker, or remove the entry"
        ) from err
    except (OSError, RuntimeError) as err:
        raise ModelInvalid(f"{subject}: the weights cannot be loaded ({err}); publish them again") from err
    missing = sorted(name for name in info["missing_keys"] if not _is_unused(name, task=model.task))
    if missing:
        raise ModelInvalid(
            f"{subject}: the checkpoint has no weights for {', '.join(missing[:5])}"
            f"{' …' if len(missing) > 5 else ''}, which {model.task} needs; set the task that it was trained for"
        )
    loaded: PreTrainedModel = module.eval()
    # Families look for what lies beside the weights; a model made of stand-ins does not know where that is.
    loaded.name_or_path = str(source_dir)
    if entry.recipe and (prepare := recipes.find(entry.recipe).prepare):
        prepare(loaded)
    return loaded


def auto_class(task: str, config: PretrainedConfig) -> Any:
    """The first of the task's auto classes that knows the configuration."""
    classes = [getattr(transformers, name) for name in TASKS[task].auto_classes]
    return next((known for known in classes if type(config) in known._model_mapping), classes[0])


def _is_unused(name: str, *, task: str) -> bool:
    bare = TASKS[task].auto_classes == ("AutoModel",)
    return bare and any(name.startswith(prefix) or f".{prefix}" in name for prefix in _UNUSED_PARAMETERS)
