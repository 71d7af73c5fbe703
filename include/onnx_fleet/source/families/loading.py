"""Load a source's model with transformers, or say why it cannot be. Imports torch and transformers."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, conversion_mapping

from onnx_fleet import recipes
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported, ModelInvalid, WorkerOutOfResources
from onnx_fleet.source.families import completeness, model_class
from onnx_fleet.source.placeholder_weights import PlaceholderWeights

# transformers makes its table of all architectures when the first model is loaded: once here, for all that are forked.
conversion_mapping.get_checkpoint_conversion_mapping("")  # type: ignore[no-untyped-call]

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_LONGEST_WORD = 300
"""The number of characters of a library's message that a message of ours takes up."""
_UNUSED_PARAMETERS = ("pooler.",)
"""The parameters that no output of ours depends on for a bare model: a checkpoint may lack them."""


def load(item: WorkItem, source_dir: Path, placeholders: PlaceholderWeights | None = None) -> PreTrainedModel:
    """Load the checkpoint in float32, in evaluation mode, with eager attention, prepared as its recipe wants it.

    What the loaded class has no place for is left out here, and judged by families.completeness.

    Args:
        placeholders: stand for the checkpoint's weights; only for classes of transformers' own.
    Raises:
        ModelInvalid: the checkpoint lacks weights that the task's outputs depend on, or its files cannot be read.
        ExportUnsupported: transformers has no such model for the task.
        WorkerOutOfResources: transformers may not write where it copies a repo's code.
    """
    model, entry = item.model, item.model.entry
    subject = model.at_commit
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = model_class.config_of(item, source_dir)
        settings: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
        chosen = model_class.choose(item, config, source_dir=source_dir)
        if chosen.own and chosen.own.config_class is config.sub_configs.get("text_config"):
            config = config.get_text_config()  # of a model of images and text, of which only the text is asked
        loader: Any = chosen.own or chosen.auto
        if placeholders and chosen.own:
            module, info = loader.from_pretrained(None, config=config, state_dict=placeholders.state, **settings)
            placeholders.missing = frozenset(info["missing_keys"])
        else:
            module, info = loader.from_pretrained(
                source_dir,
                config=config,
                use_safetensors=None if entry.allow_pickle == model.commit else True,
                trust_remote_code=entry.trust_remote_code == model.commit,
                **settings,
            )
    except ValueError as err:
        raise ExportUnsupported(
            f"{subject}: transformers has no {model.task} model for {model.architecture} ({_brief(err)}); set another "
            f"task in its entry"
        ) from err
    except ImportError as err:
        lines = str(err).strip().splitlines()
        raise ExportUnsupported(
            f"{subject}: {model.architecture} needs a package that is not installed here "
            f"({lines[0] if lines else err.name}); install it on every worker, or remove the entry"
        ) from err
    except (OSError, RuntimeError) as err:
        if isinstance(err, OSError) and err.errno in _REFUSED:
            raise WorkerOutOfResources(
                f"{subject}: transformers may not write {err.filename} ({err.strerror}), where it copies a repo's code;"
                f" let HF_HOME name a folder that this user may write"
            ) from err
        raise ModelInvalid(f"{subject}: the weights cannot be loaded ({_brief(err)}); publish them again") from err
    faults = [*map(str, info["error_msgs"]), *(f"{name} of another shape" for name, *_ in info["mismatched_keys"])]
    if faults:
        raise ModelInvalid(f"{subject}: the weights cannot be loaded ({'; '.join(faults[:5])}); publish them again")
    missing = sorted(name for name in info["missing_keys"] if not _is_unused(name, task=model.task))
    if missing:
        raise ModelInvalid(
            f"{subject}: the checkpoint has no weights for {', '.join(missing[:5])}"
            f"{' …' if len(missing) > 5 else ''}, which {model.task} needs; set the task that it was trained for"
        )
    loaded: PreTrainedModel = module.eval()
    if lost := completeness.contradicted(loaded, source_dir, unexpected=info["unexpected_keys"]):
        raise ModelInvalid(
            f"{subject}: transformers loads {type(loaded).__name__} without {', '.join(lost[:5])}, for which it has a "
            f"place; this is a fault of transformers or of onnx-fleet: report it"
        )
    # Families look for what lies beside the weights; a model made of stand-ins does not know where that is.
    loaded.name_or_path = str(source_dir)
    if entry.recipe and (prepare := recipes.find(entry.recipe).prepare):
        prepare(loaded)
    return loaded


def _brief(err: Exception) -> str:
    """Return the beginning of transformers' message: behind it come lists of every class that it has."""
    said = str(err).strip().split("\n")[0].partition(" Model type should be one of")[0]
    return said if len(said) <= _LONGEST_WORD else f"{said[:_LONGEST_WORD]} …"


def _is_unused(name: str, *, task: str) -> bool:
    bare = TASKS[task].auto_classes == ("AutoModel",)
    return bare and any(name.startswith(prefix) or f".{prefix}" in name for prefix in _UNUSED_PARAMETERS)
