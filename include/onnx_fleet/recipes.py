"""Recipes: named ways to change how one model is exported. The built-in ones are here; a fleet's own are Python files.

A catalogue entry names a built-in recipe (``mean-normalized``), or one of a file: ``recipes.layers:swish`` is the
object ``swish`` in ``recipes/layers.py``. Such a file is the fleet owner's reviewed code: its digest is in the
fingerprint.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_fleet.errors import CatalogueInvalid

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel

Tensors = Mapping[str, "Tensor"]
Feeds = Mapping[str, "np.ndarray"]
Shape = tuple[str | int | None, ...]

_FILE_PREFIX = "recipes."


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Changes to one export; what is left out stays as the family has it."""

    name: str = ""
    """What a catalogue calls it; of a file's recipe, the object's own name."""
    summary: str
    """For people: one line."""
    tasks: tuple[str, ...] = ()
    """The tasks of onnx_fleet.tasks.TASKS that it applies to; empty for all."""

    prepare: Callable[[PreTrainedModel], None] | None = None
    """Changes the model in place before anything is done with it: what the graph is compared with is changed too."""
    rewrite: Callable[[PreTrainedModel], None] | None = None
    """Changes in place what is traced, and nothing else: it must compute what the untouched model computes."""

    hidden_states: bool = False
    """Gives the head every layer's hidden states too: ``hidden_states.0``, the embeddings, to ``hidden_states.<n>``."""
    head: Callable[[Tensors, Tensors], Mapping[str, Tensor]] | None = None
    """(inputs, the family's outputs) -> what is added to the outputs."""
    outputs: Mapping[str, Shape] = field(default_factory=dict)
    """What the head adds: name -> the contract's symbols; None is a number that the model decides."""
    drop: tuple[str, ...] = ()
    """The family's outputs that the graph does not give."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """The family's name of an output -> the graph's."""

    translations: Callable[[], Mapping[Any, Callable[..., Any]]] | None = None
    """Operators of torch -> onnxscript functions, for operators that no exporter knows."""
    libraries: tuple[str, ...] = ()
    """Python packages whose ``get_library_path()`` names the library that onnxruntime needs for the operators."""

    example: Callable[[Tensors], Tensors] | None = None
    """The family's example inputs -> the ones to trace with: of the same names and axes."""
    cases: Callable[[Feeds], Mapping[str, Feeds]] | None = None
    """A random batch -> further inputs to be proven equal on, named: one for each way that the model branches."""
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    """Settings to change in the packed tokenizer_config.json: ``model_max_length`` clips what is fed."""

    def output_shapes(self, own: Mapping[str, Shape]) -> dict[str, Shape]:
        """The graph's outputs, in order: the family's that are kept, then the head's."""
        kept = {self.rename.get(name, name): shape for name, shape in own.items() if name not in self.drop}
        return {**kept, **self.outputs}


def find(name: str) -> Recipe:
    """A recipe by the name that a catalogue gives it; this runs the file that it is in.

    Raises:
        CatalogueInvalid: there is none of that name.
    """
    if name in RECIPES:
        return RECIPES[name]
    path, attribute = _locate(name)
    module = importlib.import_module(name.partition(":")[0])
    found = getattr(module, attribute, None)
    if not isinstance(found, Recipe):
        raise CatalogueInvalid(f"recipe '{name}': {path.name} has no Recipe named {attribute}")
    return found


def digest(name: str) -> str | None:
    """SHA-256 of the file that a recipe is in, 64 hex digits; None of a built-in one, which the toolchain covers.

    Raises:
        CatalogueInvalid: there is no such file.
    """
    if name in RECIPES:
        return None
    path, _ = _locate(name)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fault(name: str) -> str | None:
    """What is wrong with a recipe's name, for people; nothing is imported or run to find out."""
    if name in RECIPES:
        return None
    try:
        _locate(name)
    except CatalogueInvalid as err:
        return str(err)
    return None


def names_of_files() -> tuple[str, ...]:
    """Every recipe that the files in ``recipes/`` define, as a catalogue names them."""
    package = importlib.util.find_spec(_FILE_PREFIX.rstrip("."))
    folders = [Path(folder) for folder in package.submodule_search_locations or ()] if package else []
    files = sorted(file for folder in folders for file in folder.glob("[!_]*.py"))
    return tuple(f"{_FILE_PREFIX}{file.stem}:{name}" for file in files for name in _assigned(file))


def _locate(name: str) -> tuple[Path, str]:
    """The file and the object that ``recipes.file:name`` means."""
    module, _, attribute = name.partition(":")
    if not module.startswith(_FILE_PREFIX) or not attribute.isidentifier():
        raise CatalogueInvalid(
            f"recipe '{name}' is not known; write a built-in one ({', '.join(RECIPES)}), or recipes.file:name for the "
            f"object `name` in recipes/file.py"
        )
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise CatalogueInvalid(
            f"recipe '{name}': there is no {module.replace('.', '/')}.py; the folder that holds recipes/ must be on "
            f"PYTHONPATH of whoever plans and exports"
        )
    path = Path(spec.origin)
    if attribute not in _assigned(path):
        known = ", ".join(_assigned(path)) or "none"
        raise CatalogueInvalid(f"recipe '{name}': {path.name} assigns no {attribute}; its names are {known}")
    return path, attribute


def _assigned(path: Path) -> tuple[str, ...]:
    """The names that a file gives to ``… = Recipe(…)``, or to whatever another call returns, at its top level."""
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    targets = (
        target
        for statement in statements
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)
        for target in statement.targets
    )
    return tuple(target.id for target in targets if isinstance(target, ast.Name) and not target.id.startswith("_"))


def _first_token(inputs: Tensors, outputs: Tensors) -> Tensor:
    """The hidden state of position 0, where BERT-like models put [CLS]: [batch_size, hidden]."""
    return outputs["last_hidden_state"][:, 0]


def _mean(inputs: Tensors, outputs: Tensors) -> Tensor:
    """The mean over real positions: [batch_size, hidden]. A row without any gives zeros."""
    hidden = outputs["last_hidden_state"]
    mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)


def _last_token(inputs: Tensors, outputs: Tensors) -> Tensor:
    """The hidden state of the last real position, whichever side is padded: [batch_size, hidden]."""
    import torch

    hidden, mask = outputs["last_hidden_state"], inputs["attention_mask"]
    positions = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
    last = (positions * mask).argmax(dim=1)
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


def _normalised(vector: Tensor) -> Tensor:
    """Of L2 length 1, as sentence-transformers' Normalize module does."""
    import torch

    return torch.nn.functional.normalize(vector, p=2.0, dim=1)


def embedding(summary: str, pool: Callable[[Tensors, Tensors], Tensor], *, name: str = "") -> Recipe:
    """A recipe that adds the output sentence_embedding.

    Args:
        pool: (inputs, the family's outputs) -> [batch_size, hidden].
    """
    return Recipe(
        name=name,
        summary=summary,
        tasks=("feature-extraction", "sentence-similarity"),
        outputs={"sentence_embedding": ("batch_size", None)},
        head=lambda inputs, outputs: {"sentence_embedding": pool(inputs, outputs)},
    )


def hidden_layers(*layers: int) -> Recipe:
    """A recipe that adds the hidden states of chosen layers, as ``hidden_state_<layer>``.

    Args:
        layers: 0 is the embeddings, 1 the first layer.
    """
    return Recipe(
        summary=f"adds the hidden states of layers {', '.join(map(str, layers))}",
        tasks=("feature-extraction", "sentence-similarity"),
        hidden_states=True,
        outputs={f"hidden_state_{layer}": ("batch_size", "sequence_length", None) for layer in layers},
        head=lambda inputs, outputs: {f"hidden_state_{layer}": outputs[f"hidden_states.{layer}"] for layer in layers},
    )


def _probabilities(inputs: Tensors, outputs: Tensors) -> dict[str, Tensor]:
    """Softmax over the classes; a single logit, as re-rankers give it, goes through a sigmoid."""
    logits = outputs["logits"]
    return {"probabilities": logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(dim=-1)}


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        embedding("adds sentence_embedding: the first token's hidden state", _first_token, name="cls"),
        embedding(
            "adds sentence_embedding: the first token's hidden state, of length 1",
            lambda inputs, outputs: _normalised(_first_token(inputs, outputs)),
            name="cls-normalized",
        ),
        embedding("adds sentence_embedding: the mean over real tokens", _mean, name="mean"),
        embedding(
            "adds sentence_embedding: the mean over real tokens, of length 1",
            lambda inputs, outputs: _normalised(_mean(inputs, outputs)),
            name="mean-normalized",
        ),
        embedding("adds sentence_embedding: the last real token's hidden state", _last_token, name="last-token"),
        embedding(
            "adds sentence_embedding: the last real token's hidden state, of length 1",
            lambda inputs, outputs: _normalised(_last_token(inputs, outputs)),
            name="last-token-normalized",
        ),
        Recipe(
            name="probabilities",
            summary="adds probabilities: softmax over the classes, sigmoid of a single one",
            tasks=("text-classification", "text-ranking", "zero-shot-classification"),
            outputs={"probabilities": ("batch_size", None)},
            head=_probabilities,
        ),
    )
}
