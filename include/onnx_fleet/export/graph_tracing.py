"""Trace one graph of a model to ONNX, stepping back where something does not hold. Imports torch when called.

A graph's inputs have names that Python does not allow for arguments (``past_key_values.0.key``): they are traced with
``__`` for the dot, and get their own names back when the graph is finished.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx_fleet.entities.export_record import Fallback
from onnx_fleet.entities.graph_info import FIXABLE, NUMBERS_TO_THE_MODEL
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.export import finishing, fusions, shape_guards, weight_placement
from onnx_fleet.processes import profiling
from onnx_fleet.recipes import Recipe

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from onnx_fleet.source.families import GraphSpec, Shape
    from onnx_fleet.source.placeholder_weights import Place

log = logging.getLogger(__name__)

_DOT = "__"
_OPTIMIZER_ROUNDS = 2
"""The number of optimizer rounds: one rule's result may be input of another, and a third round finds nothing."""
_PARAMETER_PREFIX = "module."
"""The prefix that the module with the renamed arguments puts before the parameters' names."""


def trace(
    spec: GraphSpec,
    *,
    opset: int,
    names: Mapping[Place, str] | None = None,
    recipe: Recipe | None = None,
    may_be_fixed: Collection[str] = (),
) -> tuple[ir.Model, tuple[Fallback, ...]]:
    """Trace and finish one graph: with every axis dynamic and optimised, where that holds.

    Args:
        names: where a parameter is in memory -> the tensor of the checkpoint that it is. The graph has no values of
            these, it refers to them: weight_placement.save_all brings them together.
        recipe: has its own example and translations of operators.
        may_be_fixed: symbols of graph_info.FIXABLE that the entry allows to become numbers, beside the family's own.
    Returns:
        The graph, and what was given up for it.
    Raises:
        ExportUnsupported: no way works, or the recipe is not for such a graph; the message carries the reason.
    """
    if recipe:
        spec = _as_the_recipe_wants(spec, recipe)
    fixable = _fixable(spec, may_be_fixed)
    taken: list[Fallback] = []
    try:
        return _attempt(spec, opset=opset, names=names or {}, recipe=recipe, fixed=set())
    except Exception as err:  # the exporter raises anything, from any layer of torch
        if not fixable:
            raise _unsupported(spec, err, fixed=fixable) from err
        log.warning("%s: not with dynamic %s: %s", spec.role, ", ".join(sorted(fixable)), err, exc_info=err)
        taken.append(Fallback(what=f"{spec.role}: dynamic -> fixed {', '.join(sorted(fixable))}", why=_first_line(err)))
    try:
        model, more = _attempt(spec, opset=opset, names=names or {}, recipe=recipe, fixed=fixable)
    except Exception as err:
        raise _unsupported(spec, err, fixed=fixable) from err
    return model, (*taken, *more)


def _attempt(
    spec: GraphSpec,
    *,
    opset: int,
    names: Mapping[Place, str],
    recipe: Recipe | None,
    fixed: Collection[str],
) -> tuple[ir.Model, tuple[Fallback, ...]]:
    """Trace a graph with some axes fixed: optimised, else as it was traced."""
    taken: tuple[Fallback, ...] = ()
    _forget_what_it_ran(spec.module)
    parameters, bound = _parameters(spec.module, names)
    model = _export(spec, opset=opset, recipe=recipe, fixed=fixed)
    references = _detach(model, bound)
    _measure_once(model, spec)
    try:
        with profiling.timed("optimise"):
            _optimise(model, weights=parameters)
    except Exception as err:  # a rewrite rule may raise anything, and leaves a half-rewritten graph
        log.warning("%s: the optimizer failed: %s", spec.role, err, exc_info=err)
        taken = (Fallback(what=f"{spec.role}: optimizer on -> off", why=_first_line(err)),)
        _forget_what_it_ran(spec.module)
        model = _export(spec, opset=opset, recipe=recipe, fixed=fixed)
        references = _detach(model, bound)
    fusions.prevent(model)
    finishing.finish(
        model,
        inputs={name: _without(shape, fixed) for name, shape in spec.inputs.items()},
        outputs={name: _without(shape, fixed) for name, shape in spec.outputs.items()},
        traced_names={argument(name): name for name in spec.inputs},
        parameters=parameters,
    )
    _attach(model, references)
    if recipe:
        _require_cases(model, spec, recipe)
    return model, taken


def _forget_what_it_ran(module: torch.nn.Module) -> None:
    """Drop what layers worked out from their weights when they ran before, as LeViT does of its attention biases.

    The trace would take what they keep for a constant, and it was worked out from placeholder weights besides. Such
    layers drop it when they are put into training mode and back.
    """
    module.train()
    module.eval()


def _as_the_recipe_wants(spec: GraphSpec, recipe: Recipe) -> GraphSpec:
    """Return the graph's specification with the recipe's example."""
    if recipe.needs_one_pass and getattr(spec.module, "recipe", None) is not recipe:
        raise ExportUnsupported(
            f"{spec.role}: the recipe changes outputs or has cases, which needs a model of one graph and one pass; "
            f"use prepare, rewrite, translations or example here"
        )
    if recipe.example is None:
        return spec
    own = recipe.example(spec.example_inputs)
    if unknown := sorted(set(own) - set(spec.inputs)):
        raise ExportUnsupported(
            f"{spec.role}: the recipe's example has {', '.join(unknown)}, and the graph takes {', '.join(spec.inputs)}"
        )
    return replace(spec, example_inputs={**spec.example_inputs, **own})


def _require_cases(model: ir.Model, spec: GraphSpec, recipe: Recipe) -> None:
    """Require cases from the recipe for a graph with a branch: only it knows inputs that take each way."""
    branching = any(node.op_type == "If" for graph in (*model.graphs(), *model.functions.values()) for node in graph)
    if not branching or recipe.cases:
        return
    if getattr(spec.module, "recipe", None) is recipe:
        what_next = "give the recipe cases: inputs to be proven equal on, for each way that the model branches"
    else:
        what_next = "a model of several graphs or with a cache takes none, so let the recipe compute without a branch"
    raise ExportUnsupported(f"the graph has a branch (If), and the recipe names no cases to prove it on; {what_next}")


def argument(name: str) -> str:
    """Return the name that an input has while it is traced."""
    return name.replace(".", _DOT)


def _export(spec: GraphSpec, *, opset: int, recipe: Recipe | None, fixed: Collection[str]) -> ir.Model:
    """Trace with transformers' exporter, without its optimizer, which would fold weights into transposed copies."""
    with profiling.timed("imports"):
        import torch
        import torch._dynamo
        from transformers.exporters.configs import OnnxConfig

        from onnx_fleet.export import decomposition

    dynamic = {
        argument(name): {
            axis: torch.export.Dim.AUTO
            for axis, symbol in enumerate(shape)
            if isinstance(symbol, str) and symbol not in fixed and symbol not in NUMBERS_TO_THE_MODEL
        }
        for name, shape in spec.inputs.items()
    }
    example = {argument(name): tensor for name, tensor in spec.example_inputs.items()}
    config = OnnxConfig(dynamic=True, dynamic_shapes=dynamic, opset_version=opset, optimize=False)
    inputs = {argument(name): shape for name, shape in spec.inputs.items()}
    exporter = shape_guards.exporter(inputs, longest=_positions(spec.module))
    # Its entries are made and read back more slowly than most operators' shapes are worked out.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    opened = shape_guards.lengths_left_open(spec.module)
    with _translations(recipe), uncached, opened, decomposition.in_place(), profiling.timed_calls(_torchs_steps()):
        exported = exporter.export(_named(spec.module), example, config)  # type: ignore[arg-type]
    program: ir.Model = exported.program
    return program


def _torchs_steps() -> Mapping[tuple[Any, str], profiling.Stage]:
    """Return the steps of torch.onnx.export behind torch.export, by their names in profiles."""
    from torch.onnx._internal.exporter import _core, _fx_passes

    return {
        (_fx_passes, "decompose_with_registry"): "decompose",
        (_fx_passes, "insert_type_promotion_nodes"): "decompose",
        (_core, "_exported_program_to_onnx_program"): "translate",
    }


@contextmanager
def _translations(recipe: Recipe | None) -> Iterator[None]:
    """Add the recipe's operators to the exporter's table of translations, for the length of a with block."""
    from transformers.exporters import exporter_onnx

    table = exporter_onnx._ONNX_TRANSLATION_TABLE
    before = dict(table)
    table.update(recipe.translations if recipe else {})
    try:
        yield
    finally:
        table.clear()
        table.update(before)


def _positions(module: torch.nn.Module) -> int | None:
    """Return the longest sequence that the model says it takes."""
    config: Any = getattr(module, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    stated = getattr(text, "max_position_embeddings", None)
    return stated if isinstance(stated, int) else None


def _named(module: torch.nn.Module) -> torch.nn.Module:
    """Wrap a module so that its arguments have names that Python allows."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.config = module.config

        def forward(self, **arguments: torch.Tensor) -> object:
            return self.module(**{name.replace(_DOT, "."): tensor for name, tensor in arguments.items()})

    return Named().eval()


def _optimise(model: ir.Model, *, weights: Collection[str]) -> None:
    """Fold what is constant but no weight, fuse, and drop what is unused; every weight stays the checkpoint's own.

    This is onnxscript's own optimizer without its no-op rules: they take 1e-8 for 0, and a norm loses its epsilon.
    """
    from onnx_ir.passes import Sequential, common
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import _no_op

    def folds(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    rules = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule not in _no_op.rules.rules]
    common.InlinePass()(model)
    for _ in range(_OPTIMIZER_ROUNDS):
        optimizer.fold_constants_ir(model, should_fold=folds)
        rewriter.rewrite(model, rules)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def _measure_once(model: ir.Model, spec: GraphSpec) -> None:
    """Read each length from the first input that has it: a decoder's from one layer's cache, and not from every one.

    What the contract calls by one name is one length. The layers' reshapes then are the same, and become one.
    """
    import onnx_ir as ir

    sources: dict[str, tuple[ir.Value, int]] = {}
    shapes = {argument(name): shape for name, shape in spec.inputs.items()}
    for value in model.graph.inputs:
        for axis, symbol in enumerate(shapes.get(str(value.name), ())):
            if isinstance(symbol, str) and symbol not in NUMBERS_TO_THE_MODEL:
                sources.setdefault(symbol, (value, axis))
    for node in model.graph:
        read = node.inputs[0] if node.op_type == "Shape" else None
        if read is None or not read.is_graph_input() or not {"start", "end"} <= node.attributes.keys():
            continue
        start, end = node.attributes["start"].as_int(), node.attributes["end"].as_int()
        symbol = shapes[str(read.name)][start]
        if end == start + 1 and symbol in sources:
            source, axis = sources[str(symbol)]
            node.replace_input_with(0, source)
            node.attributes["start"], node.attributes["end"] = (
                ir.AttrInt64("start", axis),
                ir.AttrInt64("end", axis + 1),
            )


def _parameters(module: torch.nn.Module, names: Mapping[Place, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of parameters and buffers by their traced names: the model's own, and the checkpoint's."""
    from onnx_fleet.source import placeholder_weights
    from onnx_fleet.source.families import PARAMETER_PREFIX

    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    own = {f"{_PARAMETER_PREFIX}{name}": name.removeprefix(PARAMETER_PREFIX) for name, _ in named}
    bound = {
        f"{_PARAMETER_PREFIX}{name}": names[where]
        for name, tensor in named
        if (where := placeholder_weights.place(tensor)) in names
    }
    return own, bound


def _detach(model: ir.Model, bound: Mapping[str, str]) -> dict[str, ir.Value]:
    """Remove the values of the checkpoint's tensors, and keep one initializer for each, by its name there.

    No pass can then fold, compare or drop values that differ in the next checkpoint.

    Returns:
        The initializers, by their names in the checkpoint.
    """
    references: dict[str, ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        if name not in bound:
            continue
        first = references.setdefault(bound[name], value)
        if first is not value:
            value.replace_all_uses_with(first)
            del model.graph.initializers[name]
        value.const_value = None
    return references


def _attach(model: ir.Model, references: Mapping[str, ir.Value]) -> None:
    """Name the initializers that are left as the checkpoint does, and have them refer to it."""
    import onnx_ir as ir

    initializers = model.graph.initializers
    left = {name: value for name, value in references.items() if initializers.pop(str(value.name), None) is not None}
    for name, value in left.items():
        if value.shape is None or value.dtype is None:
            raise ValueError(f"{value.name}: an initializer without shape or type")
        value.name = name
        value.const_value = ir.ExternalTensor(
            f"{weight_placement.SCHEME}{name}", None, None, value.dtype, shape=value.shape, name=name
        )
        initializers[name] = value


def _without(shape: Shape, fixed: Collection[str]) -> Shape:
    return tuple(None if axis in fixed else axis for axis in shape)


def _fixable(spec: GraphSpec, allowed: Collection[str]) -> frozenset[str]:
    """Return the axes of a graph that may become numbers: its family's, and what its entry allows.

    A graph with a cache is prompt and step in one, and keeps every length.
    """
    shapes = (*spec.inputs.values(), *spec.outputs.values())
    axes = {axis for shape in shapes for axis in shape if isinstance(axis, str)}
    return frozenset(axes & {*spec.fixable, *(() if "past_sequence_length" in axes else allowed)})


def _unsupported(spec: GraphSpec, err: Exception, *, fixed: Collection[str]) -> ExportUnsupported:
    if isinstance(err, ExportUnsupported):
        frozen = err.axes - set(fixed) if isinstance(err, finishing.AxesFrozen) else frozenset()
        missing = _fixable(spec, frozen & FIXABLE) & frozen
        option = ", ".join(sorted(missing | (set(fixed) - set(spec.fixable))))
        hint = f"; where one size will do, its entry may say so: may_be_fixed: [{option}]" if missing else ""
        return ExportUnsupported(f"{spec.role}: {err}{hint}")
    where = _place(err)
    return ExportUnsupported(
        f"{spec.role}: the model cannot be traced ({_first_line(err)}{f'; at {where}' if where else ''}); give it a "
        f"recipe, another task or another opset"
    )


def _place(err: BaseException) -> str | None:
    """Return the last traced line of the model's own code: ``modeling_bert.py, line 120, in forward: …``."""
    frames = [
        frame
        for cause in (err, err.__cause__, err.__context__)
        if cause is not None
        for frame in traceback.extract_tb(cause.__traceback__)
        if shape_guards.is_the_models(frame)
    ]
    return shape_guards.place(frames[-1]) if frames else None


def _first_line(err: BaseException) -> str:
    """Return an error's first line; its cause's, which names the operator, where torch.onnx only wrapped it."""
    while type(err).__module__.startswith("torch.onnx") and err.__cause__ is not None:
        err = err.__cause__
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0] if lines else 'no message'}"
