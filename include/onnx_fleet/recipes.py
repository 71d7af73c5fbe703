"""Recipes: named ways to change how one model is exported. The built-in ones are here; a fleet's own are Python files.

A catalogue entry names a built-in recipe (``mean-normalized``), or one of a file: ``recipes.layers:swish`` is the
object ``swish`` in ``recipes/layers.py``. Such a file is the fleet owner's reviewed code: its digest is in the
fingerprint. Plan and catalogue read it without running it, so that it may import torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_fleet.conventions import activation, python_source
from onnx_fleet.errors import CatalogueInvalid, ExportUnsupported

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel

Tensors = Mapping[str, "Tensor"]
Feeds = Mapping[str, "np.ndarray"]
Shape = tuple[str | int | None, ...]
Head = Callable[[Tensors, Tensors], Mapping[str, "Tensor"]]

_FILE_PREFIX = "recipes."


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Changes to one export; what is left out stays as the family has it."""

    summary: str
    """For people: one line."""
    tasks: tuple[str, ...] = ()
    """The tasks of onnx_fleet.entities.tasks.TASKS that it applies to; empty for all."""

    prepare: Callable[[PreTrainedModel], None] | None = None
    """Changes the model in place before anything is done with it: what the graph is compared with is changed too."""
    rewrite: Callable[[PreTrainedModel], None] | None = None
    """Changes in place what is traced, and nothing else: it must compute what the untouched model computes."""

    hidden_states: bool = False
    """Gives the head every layer's hidden states too: ``hidden_states.0``, the embeddings, to ``hidden_states.<n>``."""
    head: Head | None = None
    """(inputs, the family's outputs by its own names) -> what is added to them."""
    head_of: Callable[[str, PreTrainedModel], Head] | None = None
    """(task, model) -> the head of this very model, where it depends on what the model's configuration says."""
    outputs: Mapping[str, Shape] = field(default_factory=dict)
    """What the head adds: name -> the contract's symbols; None is a number that the model decides."""
    drop: tuple[str, ...] = ()
    """The family's outputs that the graph does not give."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """The family's name of an output -> the graph's."""

    translations: Mapping[Any, Callable[..., Any]] = field(default_factory=dict)
    """Operators of torch -> onnxscript functions, for operators that no exporter knows."""
    libraries: tuple[str, ...] = ()
    """Python packages whose ``get_library_path()`` names the library that onnxruntime needs for the operators."""

    example: Callable[[Tensors], Tensors] | None = None
    """A graph's example inputs -> those to trace with instead: of the same names and axes."""
    cases: Callable[[Feeds], Mapping[str, Feeds]] | None = None
    """A random batch -> further inputs to be proven equal on, named: one for each way that the model branches."""
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    """Settings to change in the packed tokenizer_config.json: ``model_max_length`` clips what is fed."""

    @property
    def needs_one_pass(self) -> bool:
        """Whether something in it speaks of the one pass of a model of one graph: its outputs, or cases to prove."""
        return bool(
            self.head or self.head_of or self.outputs or self.drop or self.rename or self.hidden_states or self.cases
        )

    def of(self, task: str, model: PreTrainedModel) -> Recipe:
        """The recipe with the head that this model gets for this task.

        Raises:
            ExportUnsupported: it has two heads, or what the model's configuration asks of its head cannot be had.
        """
        if self.head_of is None:
            return self
        if self.head is not None:
            raise ExportUnsupported("the recipe has both head and head_of; keep one of them")
        return replace(self, head=self.head_of(task, model), head_of=None)

    def output_shapes(self, own: Mapping[str, Shape]) -> dict[str, Shape]:
        """The graph's outputs, in order: the family's that are kept, then the head's.

        Raises:
            ExportUnsupported: it drops or renames what the family has not, gives a name twice, or leaves none.
        """
        unknown = [name for name in (*self.drop, *self.rename) if name not in own]
        if unknown:
            raise ExportUnsupported(
                f"the recipe drops or renames {', '.join(unknown)}, and the task's outputs are {', '.join(own)}"
            )
        kept = [(self.rename.get(name, name), shape) for name, shape in own.items() if name not in self.drop]
        names = [*(name for name, _ in kept), *self.outputs]
        if len(set(names)) < len(names) or not names:
            raise ExportUnsupported(
                f"the recipe leaves the outputs {', '.join(names) or 'none'}; a graph needs one, and each name once"
            )
        return {**dict(kept), **self.outputs}

    def outputs_of(self, inputs: Tensors, own: Tensors, *, layers: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """What the graph gives, in the order of output_shapes.

        Args:
            own: the family's outputs.
            layers: every layer's hidden states, the embeddings first.
        Raises:
            ExportUnsupported: the head gives other outputs than it declares.
        """
        given = {**own, **{f"hidden_states.{index}": layer for index, layer in enumerate(layers)}}
        added = dict(self.head(inputs, given)) if self.head else {}
        if set(added) != set(self.outputs):
            raise ExportUnsupported(
                f"the recipe's head returns {', '.join(added) or 'nothing'}, and its outputs declare "
                f"{', '.join(self.outputs) or 'nothing'}; both have to name the same"
            )
        kept = {self.rename.get(name, name): tensor for name, tensor in own.items() if name not in self.drop}
        return {**kept, **{name: added[name] for name in self.outputs}}


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
    """SHA-256 of the file that a recipe is in, and of those of recipes/ that it imports: 64 hex digits.

    None of a built-in one, which the toolchain covers.

    Raises:
        CatalogueInvalid: there is no such file.
    """
    if name in RECIPES:
        return None
    path, _ = _locate(name)
    found = hashlib.sha256()
    for source in _sources(path, module=name.partition(":")[0]):
        found.update(source.read_bytes())
    return found.hexdigest()


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
    files = sorted(file for folder in _folders() for file in folder.glob("[!_]*.py"))
    return tuple(f"{_FILE_PREFIX}{file.stem}:{name}" for file in files for name in _assigned(file))


def shared_folder() -> Path:
    """The folder in which recipes/ lies, and beside it what entries name: every worker of a fleet has the same.

    Where Python finds no recipes/ it is the folder that this package lies in.
    """
    return next((folder.parent for folder in _folders()), Path(__file__).parents[1])


def _folders() -> list[Path]:
    """Every recipes/ that Python finds."""
    package = importlib.util.find_spec(_FILE_PREFIX.rstrip("."))
    return [Path(folder) for folder in package.submodule_search_locations or ()] if package else []


def _locate(name: str) -> tuple[Path, str]:
    """The file and the object that ``recipes.file:name`` means."""
    module, _, attribute = name.partition(":")
    if not module.startswith(_FILE_PREFIX) or not attribute.isidentifier():
        raise CatalogueInvalid(
            f"recipe '{name}' is not known; write a built-in one ({', '.join(RECIPES)}), or recipes.file:name for "
            f"the object `name` in recipes/file.py"
        )
    path = _file(module)
    if path is None:
        raise CatalogueInvalid(
            f"recipe '{name}': there is no {module.replace('.', '/')}.py; the folder that holds recipes/ must be "
            f"on PYTHONPATH wherever models are planned or exported"
        )
    if attribute not in _assigned(path):
        known = ", ".join(_assigned(path)) or "none"
        raise CatalogueInvalid(f"recipe '{name}': {path.name} assigns no {attribute}; its names are {known}")
    return path, attribute


def _file(module: str) -> Path | None:
    """Where a module lies; it is not run."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _sources(path: Path, *, module: str) -> tuple[Path, ...]:
    """A file, then the others of recipes/ that it and they import, by name."""
    found, waiting = {module: path}, [module]
    while waiting:
        for name in _imported(found[package := waiting.pop()], package=package.rpartition(".")[0]):
            if name not in found and (file := _file(name)):
                found[name] = file
                waiting.append(name)
    first = found.pop(module)
    return (first, *(found[name] for name in sorted(found)))


def _imported(path: Path, *, package: str) -> Iterator[str]:
    """The modules of recipes/ that a file's import statements may mean."""
    for node in ast.walk(python_source.module(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith(_FILE_PREFIX))


def _assigned(path: Path) -> tuple[str, ...]:
    """The names that a file gives to ``… = Recipe(…)``, or to whatever another call returns, at its top level."""
    targets: list[ast.expr] = []
    for statement in python_source.module(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Call):
            targets.append(statement.target)
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


def embedding(summary: str, pool: Callable[[Tensors, Tensors], Tensor]) -> Recipe:
    """A recipe that adds the output sentence_embedding.

    Args:
        pool: (inputs, the family's outputs) -> [batch_size, hidden].
    """
    return Recipe(
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


def _probabilities(task: str, model: PreTrainedModel) -> Head:
    """The scores that the library of the task makes of the logits."""
    function = activation.of(task, model.config, folder=Path(str(model.name_or_path)))
    return lambda inputs, outputs: {"probabilities": function(outputs["logits"])}


POOLINGS: Mapping[str, tuple[str, bool]] = {
    "cls": ("cls", False),
    "cls-normalized": ("cls", True),
    "mean": ("mean", False),
    "mean-normalized": ("mean", True),
    "last-token": ("lasttoken", False),
    "last-token-normalized": ("lasttoken", True),
}
"""The built-in recipes that pool -> sentence-transformers' name of the mode, and whether a Normalize follows."""

_CLASSIFYING = (
    "text-classification", "text-ranking", "zero-shot-classification", "image-classification", "audio-classification",
)  # fmt: skip

RECIPES: Mapping[str, Recipe] = {
    "cls": embedding("adds sentence_embedding: the first token's hidden state", _first_token),
    "cls-normalized": embedding(
        "adds sentence_embedding: the first token's hidden state, of length 1",
        lambda inputs, outputs: _normalised(_first_token(inputs, outputs)),
    ),
    "mean": embedding("adds sentence_embedding: the mean over real tokens", _mean),
    "mean-normalized": embedding(
        "adds sentence_embedding: the mean over real tokens, of length 1",
        lambda inputs, outputs: _normalised(_mean(inputs, outputs)),
    ),
    "last-token": embedding("adds sentence_embedding: the last real token's hidden state", _last_token),
    "last-token-normalized": embedding(
        "adds sentence_embedding: the last real token's hidden state, of length 1",
        lambda inputs, outputs: _normalised(_last_token(inputs, outputs)),
    ),
    "probabilities": Recipe(
        summary="adds probabilities: what the task's library makes of the logits, as config.json says",
        tasks=_CLASSIFYING,
        outputs={"probabilities": ("batch_size", None)},
        head_of=_probabilities,
    ),
}
