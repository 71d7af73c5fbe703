"""Encoders: one graph, tokens in, hidden states or a head's logits out. Imports torch and transformers."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
import transformers
from torch import Tensor

from onnx_fleet.errors import ExportUnsupported, ModelInvalid
from onnx_fleet.families import Family, GraphSpec, Shape
from onnx_fleet.plan import WorkItem
from onnx_fleet.recipes import RECIPES
from onnx_fleet.tasks import TASKS

_TOKENS: Shape = ("batch_size", "sequence_length")
_HIDDEN: dict[str, Shape] = {"last_hidden_state": ("batch_size", "sequence_length", None)}

OUTPUTS: dict[str, dict[str, Shape]] = {
    "feature-extraction": _HIDDEN,
    "sentence-similarity": _HIDDEN,
    "fill-mask": {"logits": ("batch_size", "sequence_length", None)},
    "text-classification": {"logits": ("batch_size", None)},
    "token-classification": {"logits": ("batch_size", "sequence_length", None)},
    "question-answering": {"start_logits": _TOKENS, "end_logits": _TOKENS},
}

_UNUSED_PARAMETERS = ("pooler.",)
"""Parameters that no output of ours depends on for a bare model: a checkpoint may lack them."""

_EXAMPLE_BATCH, _EXAMPLE_LENGTH, _EXAMPLE_PADDING = 2, 7, 3


class Encoder(torch.nn.Module):
    """A transformers encoder that takes named tokens and gives exactly the outputs of its task and recipe."""

    def __init__(self, model: torch.nn.Module, *, task: str, recipe: str | None) -> None:
        super().__init__()
        self.model = model
        self.config: transformers.PretrainedConfig = model.config  # type: ignore[assignment]
        self.output_names = tuple(OUTPUTS[task])
        self.recipe = RECIPES[recipe] if recipe else None

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = self.model(**inputs, return_dict=True)
        outputs = {name: given[name] for name in self.output_names}
        if self.recipe is not None:
            outputs |= self.recipe.head(inputs, outputs)
        return outputs


def load(item: WorkItem, source_dir: Path) -> Encoder:
    """The checkpoint in float32, in evaluation mode, with eager attention.

    Raises:
        ModelInvalid: the checkpoint lacks weights that the task's outputs depend on, or its files cannot be read.
        ExportUnsupported: transformers has no such model for the task.
    """
    model, entry = item.model, item.model.entry
    auto_class = getattr(transformers, TASKS[model.task].auto_class)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, info = auto_class.from_pretrained(
            source_dir,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=entry.allow_pickle != model.commit,
            trust_remote_code=entry.trust_remote_code == model.commit,
            output_loading_info=True,
        )
    except ValueError as err:
        raise ExportUnsupported(
            f"{model.repo_id}@{model.commit[:8]}: transformers has no {model.task} model for "
            f"{model.architecture} ({err}); set another task in its entry"
        ) from err
    except (OSError, RuntimeError) as err:
        raise ModelInvalid(
            f"{model.repo_id}@{model.commit[:8]}: the weights cannot be loaded ({err}); publish them again"
        ) from err
    missing = sorted(name for name in info["missing_keys"] if not _is_unused(name, task=model.task))
    if missing:
        raise ModelInvalid(
            f"{model.repo_id}@{model.commit[:8]}: the checkpoint has no weights for {', '.join(missing[:5])}"
            f"{' …' if len(missing) > 5 else ''}, which {model.task} needs; set the task that it was trained for"
        )
    return Encoder(module.eval(), task=model.task, recipe=entry.recipe).eval()


def graphs(item: WorkItem, module: torch.nn.Module) -> tuple[GraphSpec, ...]:
    """The one graph of an encoder."""
    assert isinstance(module, Encoder)
    task, config = item.model.task, module.config
    length = torch.arange(_EXAMPLE_LENGTH)
    attention_mask = torch.ones(_EXAMPLE_BATCH, _EXAMPLE_LENGTH, dtype=torch.int64)
    attention_mask[1, -_EXAMPLE_PADDING:] = 0
    tokens = (length * 31 + torch.arange(_EXAMPLE_BATCH)[:, None] * 7 + config.vocab_size // 2) % config.vocab_size
    padding = getattr(config, "pad_token_id", None) or 0
    example = {
        "input_ids": torch.where(attention_mask.bool(), tokens, padding),
        "attention_mask": attention_mask,
    }
    if takes_token_types(module.model):
        example["token_type_ids"] = (length > _EXAMPLE_LENGTH // 2).to(torch.int64).repeat(_EXAMPLE_BATCH, 1)
    recipe_outputs = module.recipe.outputs if module.recipe else {}
    return (
        GraphSpec(
            role="model",
            module=module,
            parameter_prefix="model.",
            example_inputs=example,
            inputs=dict.fromkeys(example, _TOKENS),
            outputs={**OUTPUTS[task], **recipe_outputs},
        ),
    )


def takes_token_types(model: torch.nn.Module) -> bool:
    """Whether sentence A and B are told apart: RoBERTa has the argument, and one type only."""
    accepts = "token_type_ids" in inspect.signature(model.forward).parameters
    return accepts and getattr(model.config, "type_vocab_size", 0) > 1


def _is_unused(name: str, *, task: str) -> bool:
    bare = TASKS[task].auto_class == "AutoModel"
    return bare and any(name.startswith(prefix) or f".{prefix}" in name for prefix in _UNUSED_PARAMETERS)


FAMILY = Family(name="encoder", load=load, graphs=graphs)
