"""The contract between a bundle and its consumers: what changed in graphs, inputs and outputs between two versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.entities.regression_report import ContractChange


def changes(old: Iterable[GraphInfo], new: Iterable[GraphInfo]) -> tuple[ContractChange, ...]:
    """Return everything that changed; two graphs are the same one when role and variant are equal."""
    before, after = by_role(old), by_role(new)
    found = []
    for key, info in before.items():
        if key not in after:
            found.append(ContractChange(graph=info.path, change=f"{_named(info)} is gone", breaking=True))
        else:
            found += _of_graph(info, after[key])
    found += [
        ContractChange(graph=info.path, change=f"{_named(info)} is new", breaking=False)
        for key, info in after.items()
        if key not in before
    ]
    return tuple(found)


def by_role(graphs: Iterable[GraphInfo]) -> dict[tuple[str, str], GraphInfo]:
    """Return the graphs by role and variant, which together name one graph of a bundle."""
    return {(info.role, info.variant): info for info in graphs}


def _named(info: GraphInfo) -> str:
    return f"{info.role} in {info.variant}"


def _of_graph(old: GraphInfo, new: GraphInfo) -> Iterator[ContractChange]:
    def changed(change: str, *, breaking: bool) -> ContractChange:
        return ContractChange(graph=new.path, change=change, breaking=breaking)

    if old.path != new.path:
        yield changed(f"it was at {old.path}", breaking=True)
    if _release(new.onnxruntime_min) > _release(old.onnxruntime_min):
        yield changed(f"onnxruntime {new.onnxruntime_min} is needed, {old.onnxruntime_min} was", breaking=True)
    if more := sorted(set(new.libraries) - set(old.libraries)):
        yield changed(f"the package {', '.join(more)} is needed too", breaking=True)
    for text, breaking in (*_of_inputs(old.inputs, new.inputs), *_of_outputs(old.outputs, new.outputs)):
        yield changed(text, breaking=breaking)


def _of_inputs(old: Sequence[TensorSpec], new: Sequence[TensorSpec]) -> Iterator[tuple[str, bool]]:
    before, after = {spec.name: spec for spec in old}, {spec.name: spec for spec in new}
    yield from ((f"input {name} is gone", True) for name in before if name not in after)
    yield from ((f"input {name} is new: every call has to give it", True) for name in after if name not in before)
    for name in (name for name in before if name in after):
        # What took any size may take one now; the other way round nobody notices.
        yield from _of_tensor("input", before[name], after[name], narrowing_breaks=True)


def _of_outputs(old: Sequence[TensorSpec], new: Sequence[TensorSpec]) -> Iterator[tuple[str, bool]]:
    before, after = {spec.name: spec for spec in old}, {spec.name: spec for spec in new}
    yield from ((f"output {name} is gone", True) for name in before if name not in after)
    yield from ((f"output {name} is new", False) for name in after if name not in before)
    for name in (name for name in before if name in after):
        # A size that could be relied on may vary now; the other way round nobody notices.
        yield from _of_tensor("output", before[name], after[name], narrowing_breaks=False)
    kept, still = [name for name in before if name in after], [name for name in after if name in before]
    first = next(iter(after), "")
    if kept != still:  # optimum pairs a cache's outputs with its inputs by their order
        yield f"outputs are in another order: {', '.join(still)}", True
    elif kept and first != kept[0]:  # fastembed takes output 0
        yield f"output {first} is first, {kept[0]} was", True


def _of_tensor(kind: str, old: TensorSpec, new: TensorSpec, *, narrowing_breaks: bool) -> Iterator[tuple[str, bool]]:
    if old.dtype != new.dtype:
        yield f"{kind} {old.name} is {new.dtype}, it was {old.dtype}", True
    if old.shape == new.shape:
        return
    pairs = [(before, after) for before, after in zip(old.shape, new.shape, strict=False) if before != after]
    breaking = len(old.shape) != len(new.shape) or any(
        _breaks(before, after, narrowing_breaks=narrowing_breaks) for before, after in pairs
    )
    yield f"{kind} {old.name} is {_shape(new)}, it was {_shape(old)}", breaking


def _breaks(old: int | str, new: int | str, *, narrowing_breaks: bool) -> bool:
    if isinstance(old, str) and isinstance(new, str):
        return False  # another word for an axis that varies as before
    if isinstance(old, int) and isinstance(new, int):
        return True
    return isinstance(new, int) == narrowing_breaks


def _shape(spec: TensorSpec) -> str:
    return f"[{', '.join(map(str, spec.shape))}]"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
