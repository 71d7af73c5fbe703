"""Branches on a size: the trace takes the way that the example takes, and the other way is not in the graph.

``if input_ids.shape[1] > 4:`` is no error to torch.export: it keeps the example's way and notes that the axis is now
longer than 4. Those notes are read here, and the ones that a line of the model's own code made are refused. What torch
itself notes (a slice of a table of 512 positions: at most 512) is a limit that the model has in PyTorch too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary
from typing import TYPE_CHECKING, Any

from onnx_fleet.export.finishing import AxesFrozen

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torch.nn import Module
    from transformers.exporters.exporter_onnx import OnnxExporter

    from onnx_fleet.source.families import Shape

_TRACERS = re.compile(r"/(torch|transformers/exporters|onnx_fleet)/|/contextlib\.py$")
_WRAPPERS = re.compile(r"/transformers/utils/")
_MODELS = ("transformers.models.", "transformers_modules.")
"""The modules with models' own code: the library's, and what repos bring along."""
_REFUSALS = ("assert ", "torch._check(")
"""The beginnings of lines that stop PyTorch itself; they lose no other way."""
_NARROWED = ("batch_size", "sequence_length")
"""Axes that no model may narrow; image sizes that do not fit are found by running them, and fixed."""
_SMALLEST = 2
"""The smallest size to look at: torch itself tells 0 and 1 apart from all others, and validation tries those."""
_LONG = 512
"""The size up to which every size is looked at; beyond it, only the model's longest."""
_SIZE = re.compile(r"L\['(?P<input>\w+)'\]\.size\(\)\[(?P<axis>\d+)\]")


def is_the_models(frame: FrameSummary) -> bool:
    """Say whether a line is of the model's own code, and not of what traces it."""
    return not _TRACERS.search(frame.filename) and not _WRAPPERS.search(frame.filename)


def place(frame: FrameSummary) -> str:
    """Return a line for people: ``modeling_bert.py, line 120, in forward: if past_length > 0:``."""
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {frame.line}"


@contextmanager
def lengths_left_open(module: Module) -> Iterator[None]:
    """Let ``len(tensor)`` and ``list(tensor)`` in a model's own code keep the size open that the trace keeps open.

    Python wants a number of both, and torch.export gives it the example's: RT-DETR's ``batch_size =
    len(source_flatten)`` would be 2 for ever, and LLaVA's ``list(image_features)`` three images. ``tensor.shape[0]``
    says the first without a number, and the tensor itself has the second's rows.
    """
    places = {sys.modules[type(part).__module__] for part in module.modules()}
    own = [place for place in places if place.__name__.startswith(_MODELS) and _OPEN.keys().isdisjoint(vars(place))]
    for place in own:
        vars(place).update(_OPEN)
    try:
        yield
    finally:
        for place in own:
            for name in _OPEN:
                del vars(place)[name]


def _length(of: Any) -> Any:
    import torch

    return of.shape[0] if isinstance(of, torch.Tensor) else len(of)


class _Lists(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, list)


class _List(list[Any], metaclass=_Lists):
    """A list type that accepts a tensor of any number of rows."""

    def __new__(cls, *of: Any) -> Any:
        import torch

        is_open = of and isinstance(of[0], torch.Tensor) and of[0].dim() and not isinstance(of[0].shape[0], int)
        return of[0] if is_open else list(*of)


_OPEN: Mapping[str, Any] = {"len": _length, "list": _List}


def exporter(inputs: Mapping[str, Shape], *, longest: int | None) -> OnnxExporter:
    """Return transformers' exporter, which refuses a trace that lost one way of a branch.

    Args:
        inputs: the contract's symbols of each input, by its name while it is traced.
        longest: the number of positions that the model has: a limit that allows all of them is none.
    """
    from transformers.exporters.exporter_dynamo import DynamoExporter
    from transformers.exporters.exporter_onnx import OnnxExporter

    class Watched(DynamoExporter):
        def export_program(self, *args: Any, **kwargs: Any) -> tuple[ExportedProgram, Any]:
            program, metadata = super().export_program(*args, **kwargs)
            require_no_lost_branch(program, inputs=inputs, longest=longest)
            return program, metadata

    class Exporter(OnnxExporter, Watched):  # type: ignore[misc]
        """OnnxExporter hands the program from its base, which is Watched here, to the conversion."""

    return Exporter()  # type: ignore[no-untyped-call]


def require_no_lost_branch(program: ExportedProgram, *, inputs: Mapping[str, Shape], longest: int | None) -> None:
    """Refuse a program that holds for some sizes only, because the model asked for a size.

    Raises:
        AxesFrozen: names the line and the axis.
    """
    lost = list(_lost(program, inputs=inputs, longest=longest))
    if lost:
        first, more = lost[0], f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise AxesFrozen(
            f"the model branches on a size, and the graph would hold for {first.sizes} only; at {first.place}{more}; "
            f"let the model compute the same way at every size, or give it a recipe whose rewrite does",
            axes=[word for each in lost for word in re.findall(r"\w+", each.sizes)],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    sizes: str
    """The sizes that the program is correct for: ``sequence_length > 4``."""
    place: str


def _lost(program: ExportedProgram, *, inputs: Mapping[str, Shape], longest: int | None) -> Iterator[_Lost]:
    env = _shape_env(program)
    if env is None:
        return
    axes = {str(symbol): _axis(sources, inputs) for symbol, sources in env.var_to_sources.items()}
    for guard in env.guards:
        frame = guard.sloc.framework_loc
        if not isinstance(frame, FrameSummary) or _TRACERS.search(frame.filename):
            continue
        if (frame.line or "").startswith(_REFUSALS) or _holds_for_all(guard.expr, longest=longest or _LONG):
            continue
        sizes = re.sub(r"\b[su]\d+\b", lambda match: axes.get(match.group(), match.group()), str(guard.expr))
        if any(word in sizes for word in _NARROWED):
            yield _Lost(sizes=sizes, place=place(frame))


def _holds_for_all(condition: Any, *, longest: int) -> bool:
    """Say whether every size of one axis meets a condition; what relates several axes narrows none by itself."""
    if len(condition.free_symbols) != 1:
        return True
    (symbol,) = condition.free_symbols
    sizes = {*range(_SMALLEST, min(longest, _LONG) + 1), longest}
    return all(bool(condition.subs(symbol, size)) for size in sizes)


def _axis(sources: list[Any], inputs: Mapping[str, Shape]) -> str:
    """Return the contract's name for a symbol of the trace, which knows it as ``L['input_ids'].size()[1]``."""
    names = [source.name if isinstance(source.name, str) else source.name() for source in sources]
    for match in filter(None, map(_SIZE.fullmatch, names)):
        shape = inputs.get(match["input"], ())
        if int(match["axis"]) < len(shape) and isinstance(word := shape[int(match["axis"])], str):
            return word
    return names[0] if names else "a size"


def _shape_env(program: ExportedProgram) -> ShapeEnv | None:
    """Return the environment in which the trace noted its assumptions; None where every size is a number."""
    import torch

    values = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")
    sizes: Iterator[Any] = (size for value in values if isinstance(value, torch.Tensor) for size in value.shape)
    return next((size.node.shape_env for size in sizes if isinstance(size, torch.SymInt)), None)
