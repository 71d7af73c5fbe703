"""The modules that a sentence-transformers source has behind its transformer, built by that library. Imports torch.

They become part of the model that is traced, and of the reference: their weights are called
``sentence_modules.<folder>.<name>`` in both, and in the checkpoint. What they compute is the library's own code, but
for two modules that count or split their inputs in Python while they run; what all of them together must give,
``validation/checks/sentence.py`` asks the library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onnx_fleet import recipes
from onnx_fleet.conventions import sentence_modules
from onnx_fleet.conventions.sentence_modules import PREFIX, SentenceModule
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported, ModelInvalid
from onnx_fleet.source.placeholder_weights import PlaceholderWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDING, SCORES = "sentence_embedding", "scores"
_MEAN = "mean"
"""The name of the pooling that a table has built in."""
_AUTO_CLASSES: Mapping[str, str] = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
}
"""The auto class that loads a transformer, by sentence-transformers' name of its task."""
_DEFAULT_OUTPUTS: Mapping[str, tuple[str, str]] = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "fill-mask": ("logits", "token_embeddings"),
    "sequence-classification": ("logits", SCORES),
}
"""The model's output that is read, and its name in the modules behind it, by the transformer's task."""

Features = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """The outputs of the model that the modules read."""

    output: str
    feature: str


class Chain(nn.Module):
    """The modules in a row, each under its folder's name."""

    def __init__(self, modules: Mapping[str, nn.Module], *, kinds: Mapping[str, str], reading: _Reading, answer: str):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.kinds = dict(kinds)
        self.reading = reading
        self.answer = answer
        """The output of the last module and the graph: ``sentence_embedding``, or a re-ranker's ``scores``."""

    @property
    def reads_layers(self) -> bool:
        """Whether a module mixes the hidden states of all layers."""
        return "WeightedLayerPooling" in self.kinds.values()

    def forward(self, inputs: Mapping[str, Tensor], given: Mapping[str, Any]) -> Tensor:
        """Return one row's answer each: float32 [batch_size, numbers].

        Args:
            inputs: the transformer's inputs by name.
            given: the transformer's outputs by name.
        """
        features: Features = {**inputs, self.reading.feature: given[self.reading.output]}
        if given.get("hidden_states") is not None:
            features["all_layer_embeddings"] = given["hidden_states"]
        for name, module in self.named_children():
            features = _FORWARDS.get(self.kinds[name], _as_the_library_does)(module, features)
        answer: Tensor = features[self.answer]
        return answer


def attach(
    item: WorkItem, model: PreTrainedModel, *, source_dir: Path, placeholders: PlaceholderWeights | None = None
) -> None:
    """Give a loaded model its source's modules, where the task's outputs go through some.

    Args:
        placeholders: stand for the weights of the checkpoint, the modules' own among them.
    Raises:
        ModelInvalid, UnsafeModel: the source's modules cannot be read.
        ExportUnsupported: a module cannot be exported, or the entry's recipe pools otherwise than they do.
    """
    subject = item.model.at_commit
    trusted = item.model.entry.trust_remote_code == item.model.commit
    listed = sentence_modules.read(source_dir, subject=subject, trusted=trusted)
    if not listed:
        return
    task = sentence_modules.transformer_task(listed, source_dir)
    if (_AUTO_CLASSES.get(task),) != TASKS[item.model.task].auto_classes:
        return  # another head was asked for, whose outputs no module reads
    reading = _reading(task, source_dir, subject=subject)
    if len(listed) == 1 and listed[0].kind != sentence_modules.STATIC and reading.feature != EMBEDDING:
        return
    width = int(model.config.hidden_size) if listed[0].kind == sentence_modules.STATIC else None
    chain = _built(listed, source_dir, reading=reading, subject=subject, trusted=trusted, mean_of=width)
    _require_answer(chain, listed, subject=subject)
    if item.model.entry.recipe:
        _require_agreement(chain, item.model.entry.recipe, subject=subject)
    if placeholders is not None:
        _fill_with_placeholders(chain, placeholders)
    model.add_module(PREFIX, chain.eval())


def of(model: nn.Module) -> Chain | None:
    """Return the modules that a model was given; None where it has none."""
    found = getattr(model, PREFIX, None)
    return found if isinstance(found, Chain) else None


def _reading(task: str, source_dir: Path, *, subject: str) -> _Reading:
    """Return the model's output that the first module takes, as the module's own settings have it."""
    settings = sentence_modules.transformer_settings(source_dir)
    output, feature = _DEFAULT_OUTPUTS[task]
    modalities = settings.get("modality_config")
    if isinstance(modalities, dict):
        said = modalities.get("text", modalities.get("message"))
        if not isinstance(said, dict) or said.get("method") != "forward":
            raise ExportUnsupported(
                f"{subject}: its transformer takes no text, or not by its forward (modality_config); remove the entry"
            )
        named = said.get("method_output_name")
        named = named[0] if isinstance(named, list) and len(named) == 1 else named
        if not isinstance(named, str):
            raise ExportUnsupported(
                f"{subject}: its modules read {named} of the transformer's outputs, which is none of them; remove the "
                f"entry, or use a recipe from a repo without modules.json"
            )
        output, feature = named, str(settings.get("module_output_name") or feature)
    return _Reading(output=output, feature=feature)


def _built(
    listed: tuple[SentenceModule, ...],
    source_dir: Path,
    *,
    reading: _Reading,
    subject: str,
    trusted: bool,
    mean_of: int | None,
) -> Chain:
    """Build the library's own modules with their weights.

    Args:
        mean_of: the size of a token's vector, where the first module is a table and returns their mean; else None.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.util.misc import import_module_class

    modules: dict[str, nn.Module] = {}
    kinds: dict[str, str] = {}
    if mean_of is not None:
        modules[_MEAN], kinds[_MEAN] = Pooling(mean_of, "mean"), "Pooling"
    for number, module in enumerate(listed[1:], start=1):
        _require_exportable(module, source_dir, subject=subject, trusted=trusted)
        name = module.prefix.split(".")[1] or f"module_{number}"
        try:
            known: Any = import_module_class(
                module.type, str(source_dir), trust_remote_code=trusted, local_files_only=True
            )
            modules[name] = known.load(
                str(source_dir), subfolder=module.path, local_files_only=True, trust_remote_code=trusted
            ).float()
        except (ImportError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as err:
            raise ModelInvalid(
                f"{subject}: its module {module} cannot be loaded ({type(err).__name__}: {err}); publish it again"
            ) from err
        kinds[name] = module.kind if module.is_own else ""
    settings = sentence_modules.settings(source_dir)
    is_scored = settings is not None and settings.kind == "CrossEncoder"
    return Chain(modules, kinds=kinds, reading=reading, answer=SCORES if is_scored else EMBEDDING)


def _require_exportable(module: SentenceModule, source_dir: Path, *, subject: str, trusted: bool) -> None:
    """Refuse module settings that a graph cannot have.

    Raises:
        ExportUnsupported: it leaves out the prompt, or runs a function that is none of torch's.
    """
    path = source_dir / module.path / "config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    if module.kind == "Pooling" and config.get("include_prompt", True) is False:
        raise ExportUnsupported(
            f"{subject}: its module {module} leaves the tokens of the prompt out (include_prompt: false), which a "
            f"graph cannot tell from the text's; use the model in sentence-transformers itself, or remove the entry"
        )
    activation = config.get("activation_function", "torch.nn.Tanh")
    if module.kind == "Dense" and not trusted and not _is_torchs(activation):
        raise ExportUnsupported(
            f"{subject}: its module {module} has the activation_function {activation}, which is no layer of torch.nn; "
            f"read its code, then trust it with trust_remote_code, or remove the entry"
        )


def _is_torchs(name: object) -> bool:
    """Say whether a name is a layer of torch.nn: another name would run whatever it means."""
    if not isinstance(name, str) or not name.startswith("torch.nn."):
        return False
    found = getattr(nn, name.rpartition(".")[2], None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _require_answer(chain: Chain, listed: tuple[SentenceModule, ...], *, subject: str) -> None:
    features = {chain.reading.feature}
    for name, module in chain.named_children():
        if chain.kinds[name] in ("Pooling", "SpladePooling"):
            features.add(EMBEDDING)
        elif chain.kinds[name] == "Dense":
            features.add(str(module.module_output_name))
        elif not chain.kinds[name]:
            return  # code of the source's own: tracing will tell
    if chain.answer not in features:
        row = ", ".join(map(str, listed))
        raise ExportUnsupported(f"{subject}: its modules ({row}) give no {chain.answer}; remove the entry")


def _require_agreement(chain: Chain, recipe: str, *, subject: str) -> None:
    """Refuse a recipe that pools otherwise than the source does: one of the two is wrong.

    Raises:
        ExportUnsupported: they pool differently.
    """
    wanted = recipes.POOLINGS.get(recipe)
    if wanted is None:
        return
    mode, normalised = wanted
    modules = [(kind, chain.get_submodule(name)) for name, kind in chain.kinds.items() if kind != "Dropout"]
    kinds = [kind for kind, _ in modules]
    same = kinds == ["Pooling", *(["Normalize"] if normalised else [])] and modules[0][1].pooling_mode == mode
    if not same:
        row = ", ".join(_told(kind, module) for kind, module in modules)
        raise ExportUnsupported(
            f"{subject}: the recipe '{recipe}' pools otherwise than the source, whose modules.json says {row}; leave "
            f"the recipe out: {chain.answer} is then exported as the source defines it"
        )


def _told(kind: str, module: nn.Module) -> str:
    if kind != "Pooling":
        return kind
    mode: Any = module.pooling_mode
    return f"Pooling by {mode if isinstance(mode, str) else ' and '.join(mode)}"


def _fill_with_placeholders(chain: Chain, placeholders: PlaceholderWeights) -> None:
    """Put the placeholders of the checkpoint's tensors where the values are, by any of the names that a module has."""
    for path, module in chain.named_modules(remove_duplicate=False):
        for name, own in list(module.named_parameters(recurse=False)):
            stand_in = placeholders.of_modules.get(".".join(part for part in (PREFIX, path, name) if part))
            if stand_in is not None and stand_in.shape == own.shape:
                setattr(module, name, nn.Parameter(stand_in, requires_grad=False))


def _as_the_library_does(module: nn.Module, features: Features) -> Features:
    found: Features = module(features)
    return found


def _splade(module: nn.Module, features: Features) -> Features:
    """Compute SpladePooling in one piece: the library's own takes it in chunks, by a loop over the length."""
    scores = features["token_embeddings"]
    weights = (scores * features["attention_mask"].unsqueeze(-1).to(scores.dtype)).relu().log1p()
    if module.activation_function == "log1p_relu":
        weights = weights.log1p()
    pooled = weights.amax(dim=1) if module.pooling_strategy == "max" else weights.sum(dim=1)
    return {**features, EMBEDDING: pooled}


def _sparse_code(module: nn.Module, features: Features) -> Features:
    """Encode as SparseAutoEncoder does: the library's own also counts in a buffer which numbers were ever used."""
    prepared, _ = module.prepare(features[EMBEDDING])  # type: ignore[operator]
    latents = module.encode_pre_act(prepared)  # type: ignore[operator]
    largest = torch.topk(latents, k=module.k, dim=-1)  # type: ignore[arg-type]
    code = torch.zeros_like(latents).scatter(-1, largest.indices, largest.values).relu()
    return {**features, EMBEDDING: code}


_FORWARDS: Mapping[str, Callable[[nn.Module, Features], Features]] = {
    "SpladePooling": _splade,
    "SparseAutoEncoder": _sparse_code,
}
