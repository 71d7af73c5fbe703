"""The reference: PyTorch eager outputs to compare with, from the source's own files. Imports torch when called.

Nothing here has seen the trace: the plain transformers model is called, with every input that it takes, the attention
mask above all. A graph that lost one of them is then different, and not equal to a reference that lost it too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_fleet.errors import ValidationFailed
from onnx_fleet.inputs import ModelLimits
from onnx_fleet.plan import WorkItem

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from torch.nn import Module

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Reference:
    """PyTorch eager on one model. Make it with load."""

    def __init__(self, module: Module, *, device: str = "cpu") -> None:
        self._module = module.to(device)
        self._device = device
        plain = getattr(module, "model", module)
        taken = inspect.signature(plain.forward).parameters
        self.input_names = tuple(name for name in TOKEN_INPUTS if name in taken)
        """What the source model takes; a graph has to take as much."""
        self.limits = _limits(plain)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name. Feeds that the model does not take are left out.

        Raises:
            ValidationFailed: PyTorch itself cannot run them.
        """
        import torch

        tensors = {name: torch.from_numpy(feeds[name]).to(self._device) for name in self.input_names if name in feeds}
        try:
            with torch.inference_mode():
                outputs = self._module(**tensors)
        except (RuntimeError, IndexError, ValueError) as err:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
            raise ValidationFailed(f"PyTorch itself does not run on {shapes}: {err}") from err
        return {name: output.cpu().numpy() for name, output in outputs.items()}


def load(item: WorkItem, *, source_dir: Path, device: str = "cpu") -> Reference:
    """The source model in float32, in evaluation mode, with eager attention, and the outputs of its task and recipe.

    Remote code and pickle weights are loaded only for the commit that the entry names.

    Args:
        source_dir: the files of the source at the item's commit.
    Raises:
        ModelInvalid: the weights cannot be read, or lack what the task needs.
        ExportUnsupported: transformers has no such model for the task.
    """
    from onnx_fleet import families

    return Reference(families.family(item.family).load(item, source_dir), device=device)


def threads(count: int) -> AbstractContextManager[None]:
    """PyTorch's intra-op threads, for the length of a with block: they are the process's, not a model's."""
    return _threads(count)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _limits(model: Any) -> ModelLimits:
    config = model.config
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    return ModelLimits(
        vocab_size=int(config.vocab_size),
        max_length=_max_length(model),
        token_types=max(1, int(getattr(config, "type_vocab_size", None) or 1)) if takes_types else 1,
        pad_token_id=int(getattr(config, "pad_token_id", None) or 0),
    )


def _max_length(model: Any) -> int | None:
    """From the position table where there is one: RoBERTa's keeps its first rows, up to the padding's, for padding."""
    from torch.nn import Embedding

    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("position_embeddings", "embed_positions") and isinstance(module, Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - reserved
    stated = getattr(model.config, "max_position_embeddings", None)
    return int(stated) if stated and stated > 0 else None
