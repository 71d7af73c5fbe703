"""Trace every graph of a model, without its weights where nothing needs their values. Imports torch."""

from __future__ import annotations

import json
import logging
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_fleet.entities.export_record import Fallback
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported, OnnxFleetError
from onnx_fleet.export import finishing, graph_tracing, layer_replication, layer_truncation, shape_guards
from onnx_fleet.export.layer_replication import Irregular
from onnx_fleet.export.traced_model import Traced
from onnx_fleet.processes import profiling
from onnx_fleet.recipes import Recipe
from onnx_fleet.source import checkpoint, families, placeholder_weights
from onnx_fleet.source.checkpoint import StoredTensor
from onnx_fleet.source.families import GraphSpec, chain, completeness, source_inputs
from onnx_fleet.source.placeholder_weights import Place, PlaceholderWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_LONGEST_WORD = 200
"""The number of characters of a library's message that a message of ours takes up."""


def trace_model(
    item: WorkItem, *, source_dir: Path, derived: Path, recipe: Recipe | None, whole: bool = False
) -> Traced:
    """Trace a model's graphs, which refer to the checkpoint's tensors.

    A model that a recipe changes, that is no class of transformers' own, or whose parameters the loader makes from
    several tensors is loaded whole: which of them are the checkpoint's is then found by comparing every byte.

    Args:
        derived: the file to write weights into that are not the checkpoint's.
        whole: trace every layer, also where one shows what the others are.
    Raises:
        ExportUnsupported: the exporter refuses the model, or an axis, an input or a part of the model would be lost.
        ModelInvalid: the source's weights cannot be used.
    """
    tensors = checkpoint.read(source_dir)
    with profiling.timed("imports"):
        family = families.family(item.family)
    if _can_be_hollow(item, tensors, source_dir=source_dir, recipe=recipe):
        stand_in = PlaceholderWeights(tensors.values())
        with profiling.timed("load"):
            model = family.load(item, source_dir, stand_in)
        left_out = _left_out(item, model, source_dir=source_dir)
        if stand_in.accounts_for(model):
            with profiling.timed("trace"):
                specs = _specs(item, model)
            # Three layers have not all the hidden states that a recipe or a module may name.
            by_index = (recipe is not None and recipe.hidden_states) or _reads_layers(model)
            repeated = None if whole or by_index else _repeated(item, model, specs, names=stand_in.names, recipe=recipe)
            made = repeated or _trace(item, specs, names=stand_in.names, recipe=recipe)
            return replace(made, left_out=left_out)
        log.info("%s: its loader makes parameters from several tensors; loading it whole", item.model_id)
    with profiling.timed("load"):
        model = family.load(item, source_dir, None)
        left_out = _left_out(item, model, source_dir=source_dir)
        if recipe and recipe.rewrite:
            recipe.rewrite(model)
        names = placeholder_weights.write_derived(model, tensors, derived)
    made = _trace(item, _specs(item, model), names=names, recipe=recipe, derived=derived)
    return replace(made, left_out=left_out)


def _specs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the graphs to trace.

    Raises:
        ExportUnsupported: the model's own code does not run as its family runs it, or the graphs lack an input that the
            model takes.
    """
    try:
        specs = families.family(item.family).graphs(item, model)
    except OnnxFleetError:
        raise
    except Exception as err:
        frame = traceback.extract_tb(err.__traceback__)[-1]
        if Path(frame.filename).is_relative_to(Path(__file__).parent):
            raise  # it is our fault, and a crash says where
        raise ExportUnsupported(
            f"{item.model.at_commit}: {type(model).__name__} does not run as models of "
            f"{item.model.task} are run here ({type(err).__name__}: {' '.join(str(err).split())[:_LONGEST_WORD]}; at "
            f"{shape_guards.place(frame)}); serve it with PyTorch, or take it out of the catalogue"
        ) from err
    source_inputs.require_fed(item, model, fed={name for spec in specs for name in spec.inputs})
    return specs


def _left_out(item: WorkItem, model: PreTrainedModel, *, source_dir: Path) -> tuple[str, ...]:
    """Return what the graphs leave out, each with its reason.

    Raises:
        ExportUnsupported: the model has no place for a tensor of the checkpoint, or is another one than the source's.
    """
    found = completeness.account(item, model, source_dir=source_dir)
    completeness.require_complete(item, found, model=model)
    return tuple(map(str, found.left_out))


def _reads_layers(model: PreTrainedModel) -> bool:
    modules = chain.of(model)
    return modules is not None and modules.reads_layers


def _repeated(
    item: WorkItem,
    model: PreTrainedModel,
    specs: Sequence[GraphSpec],
    *,
    names: Mapping[Place, str],
    recipe: Recipe | None,
) -> Traced | None:
    """Make the graphs of a deep model from those of a shallow one; returns None where that is not possible."""
    stacks = layer_truncation.stacks(model, names)
    if not stacks:
        return None
    try:
        with layer_truncation.truncated(model, stacks):
            with layer_truncation.truncated_config(model, stacks), profiling.timed("trace"):
                few = families.family(item.family).graphs(item, model)
            found = _trace(item, few, names=names, recipe=recipe)
        with profiling.timed("unroll"):
            for spec in specs:
                for stack in stacks:
                    layer_replication.unroll(found.graphs[spec.role], stack.weights, path=stack.path)
                finishing.put_in_order(found.graphs[spec.role], inputs=spec.inputs, outputs=spec.outputs)
    except Exception as err:  # a model without most of its layers may fail in any way
        log.info("%s: its graphs are not unrolled: %s", item.model_id, err, exc_info=not isinstance(err, Irregular))
        return None
    return replace(found, way="unrolled")


def _trace(
    item: WorkItem,
    specs: Iterable[GraphSpec],
    *,
    names: Mapping[Place, str],
    recipe: Recipe | None,
    derived: Path | None = None,
) -> Traced:
    entry = item.model.entry
    graphs: dict[str, onnx.ModelProto] = {}
    fallbacks: list[Fallback] = []
    for spec in specs:
        with profiling.timed("trace"):
            model, taken = graph_tracing.trace(
                spec, opset=entry.opset, names=names, recipe=recipe, may_be_fixed=entry.may_be_fixed
            )
        graphs[spec.role] = ir.to_proto(model)
        fallbacks += taken
    return Traced(graphs=graphs, fallbacks=tuple(fallbacks), way="full", derived=derived)


def _can_be_hollow(
    item: WorkItem, tensors: Mapping[str, StoredTensor], *, source_dir: Path, recipe: Recipe | None
) -> bool:
    """Say whether the model is transformers' own, unchanged, with plain weights in safetensors."""
    config = json.loads((source_dir / "config.json").read_bytes())
    changed = recipe is not None and bool(recipe.prepare or recipe.rewrite)
    own_code = item.model.entry.trust_remote_code is not None
    return placeholder_weights.can_stand_for(tensors) and not (changed or own_code or "quantization_config" in config)
