"""Placeholder weights: what stands for a checkpoint's tensors while its model is traced. Imports torch.

A graph does not depend on what the weights are, only on their names, types and shapes. So the model is loaded, by
transformers' own loader, from tensors that are zero but for their first values, and that the system hardly gives memory
to. Which tensor of the checkpoint each parameter is, is then told by the place of its memory, whatever the loader
renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from onnx_fleet.conventions.sentence_modules import PREFIX
from onnx_fleet.source.checkpoint import StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Place = tuple[int, tuple[int, ...], tuple[int, ...]]
"""The place of a tensor's values in memory: address, shape and strides. A part or a transpose has another one."""

_EXACT = ("float32", "float16", "bfloat16")
"""The types of which float32 holds every value."""
_AS_THEY_ARE = ("bool", "uint8", "int8", "int16", "int32", "int64")


class PlaceholderWeights:
    """A checkpoint without its bytes.

    Args:
        tensors: the checkpoint's tensors, of types for which can_stand_for holds.
    """

    def __init__(self, tensors: Iterable[StoredTensor]) -> None:
        everything = {tensor.name: _stand_in(tensor, number) for number, tensor in enumerate(tensors, start=1)}
        self.of_modules = {name: each for name, each in everything.items() if name.startswith(f"{PREFIX}.")}
        """The placeholders of the modules that a sentence-transformers source has behind its transformer, by name."""
        self.state = {name: each for name, each in everything.items() if name not in self.of_modules}
        """The placeholders by name in the checkpoint: nearly all zeros; floats are float32, as they are loaded."""
        self.names = {place(tensor): name for name, tensor in everything.items() if tensor.numel()}
        """The names in the checkpoint, by the places of the placeholders."""
        self.missing: frozenset[str] = frozenset()
        """The parameters that the checkpoint lacks and the model makes up by itself; set by whoever loads it."""

    def accounts_for(self, model: PreTrainedModel) -> bool:
        """Say whether every parameter is a tensor of the checkpoint, and none is made from several of them.

        transformers copies the bias of a head that is tied to the embeddings: a parameter with all
        of its numbers counts as the same.
        """
        lists = {
            name: tensor
            for name, tensor in {**self.state, **self.of_modules}.items()
            if tensor.dim() == 1 and tensor.is_floating_point()
        }
        for own, parameter in model.named_parameters():
            if parameter.dim() == 1 and place(parameter) not in self.names and own not in self.missing:
                same = next((name for name, tensor in lists.items() if torch.equal(tensor, parameter)), None)
                if same is not None:
                    self.names[place(parameter)] = same
        return all(
            place(parameter) in self.names or name in self.missing or not parameter.numel()
            for name, parameter in model.named_parameters()
        )


def place(tensor: torch.Tensor) -> Place:
    """Return where a tensor is in memory; two tensors with equal places are one."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def can_stand_for(tensors: Mapping[str, StoredTensor]) -> bool:
    """Say whether there is a checkpoint, and float32 holds its values."""
    return bool(tensors) and all(tensor.dtype in (*_EXACT, *_AS_THEY_ARE) for tensor in tensors.values())


def write_derived(model: PreTrainedModel, tensors: Mapping[str, StoredTensor], path: Path) -> dict[Place, str]:
    """Write those weights of a wholly loaded model that are not the checkpoint's tensor of their name.

    Returns:
        The name of each parameter by its place: in the checkpoint or, if that is another tensor, in the file.
    """
    names: dict[Place, str] = {}
    derived: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        where = place(value)
        if where in names or not value.numel():
            continue
        names[where] = name
        if name not in tensors or not _same(tensors[name], value.detach().numpy()):
            derived[name] = value.detach().contiguous()
    save_file(derived, path)
    return names


def _same(stored: StoredTensor, loaded: np.ndarray) -> bool:
    """Say whether two tensors are equal as bytes: NaN is NaN, and -0 is not 0."""
    if stored.shape != loaded.shape or stored.dtype not in (*_EXACT, *_AS_THEY_ARE):
        return False
    flat, values = stored.array().reshape(-1), np.ascontiguousarray(loaded).reshape(-1)
    pieces = range(0, flat.size, _PIECE)
    return all(
        flat[start : start + _PIECE].astype(values.dtype).tobytes() == values[start : start + _PIECE].tobytes()
        for start in pieces
    )


_PIECE = 1 << 22
"""The number of values that are compared at once."""


def _stand_in(tensor: StoredTensor, number: int) -> torch.Tensor:
    """Make a tensor of zeros, but for values that no other placeholder has.

    transformers ties two tensors of the checkpoint if they are equal, and the next checkpoint's are not. numpy's zeros
    come from the system untouched, while torch's are written.
    """
    dtype = np.float32 if tensor.dtype in _EXACT else np.dtype(tensor.dtype)
    values = np.zeros(tensor.shape, dtype)
    if dtype == np.float32 and values.size:
        values.reshape(-1)[: values.size if values.ndim == 1 else 1] = number
        if values.ndim == 1:
            values += np.arange(values.size, dtype=np.float32) / 2
    return torch.from_numpy(values)
