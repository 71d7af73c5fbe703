"""Programs that are decomposed without a second trace: no more nodes, and the same values to the bit."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import onnxruntime
import pytest
import torch
from torch.onnx._internal.exporter import _fx_passes

from onnx_fleet.export import decomposition


class Plain(torch.nn.Module):
    """Every operator that is replaced, and every view, on float32 [batch_size, 4, 3, 2]."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        low, high = x.detach().transpose(1, 2).contiguous().reshape(x.shape[0], -1).chunk(2, dim=1)
        wide = x.to(torch.float64).type_as(x).to(x).to("cpu")
        dropped = torch.nn.functional.dropout(wide, 0.5, training=False).flatten(2)
        small, large = dropped < 0.5, dropped > torch.tensor(-0.5)
        return {
            "least": torch.min(low, high),
            "most": torch.max(low, high),
            "flat": dropped,
            "between": small & large,
            "either": small | large,
            "one": small ^ large,
            "wide": x[:, :1].expand_as(x) + 0.0,
        }


class WritesToIt(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        made = x * 2
        made += 1
        return {"made": made}


class DropsOut(torch.nn.Module):
    """Dropout that is always on, as a model has it that samples from itself."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"made": torch.nn.functional.dropout(x, 0.0, training=True)}


class Flattens(torch.nn.Module):
    """Two axes stay that are open: torch puts that shape in fewer nodes."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"made": x.flatten(2)}


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was left to torch: a row for each program."""
    left: list[str] = []
    real = _fx_passes.decompose_with_registry

    def counted(exported_program: torch.export.ExportedProgram, registry: object) -> torch.export.ExportedProgram:
        left.append("a program")
        return real(exported_program, registry)

    monkeypatch.setattr(_fx_passes, "decompose_with_registry", counted)
    return left


def graph(
    module: torch.nn.Module, *, open_axes: int, decomposing: AbstractContextManager[None]
) -> tuple[Counter[str], onnxruntime.InferenceSession]:
    """Export a module as the export of a model does; the operators of its graph, and the graph to be run."""
    shapes = {"x": dict.fromkeys(range(open_axes), torch.export.Dim.DYNAMIC)}
    with decomposing:
        program = torch.onnx.export(
            module.eval(), kwargs={"x": torch.rand(2, 4, 3, 2)}, dynamic_shapes=shapes, dynamo=True, optimize=True
        )
    assert program is not None
    model = program.model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in model.graph.node), session


def test_a_program_in_which_nothing_is_written_to_is_not_traced_again(by_torch: list[str]) -> None:
    nodes, session = graph(Plain(), open_axes=1, decomposing=decomposition.in_place())
    assert by_torch == []
    expected_nodes, expected = graph(Plain(), open_axes=1, decomposing=nullcontext())
    assert by_torch == ["a program"]

    assert nodes <= expected_nodes, "no more nodes than torch's way leads to"
    for rows in (1, 2, 5):
        x = np.random.default_rng(rows).standard_normal((rows, 4, 3, 2)).astype(np.float32)
        of_torch = Plain()(torch.from_numpy(x))
        for name, ours, theirs in zip(of_torch, session.run(None, {"x": x}), expected.run(None, {"x": x}), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name, strict=True)
            np.testing.assert_array_equal(ours, of_torch[name].numpy(), err_msg=name, strict=True)


@pytest.mark.parametrize(
    ("module", "open_axes"), [(WritesToIt(), 1), (DropsOut(), 1), (Flattens(), 2)], ids=lambda value: str(value)[:9]
)
def test_what_is_more_than_that_is_left_to_torch(module: torch.nn.Module, open_axes: int, by_torch: list[str]) -> None:
    _, session = graph(module, open_axes=open_axes, decomposing=decomposition.in_place())

    assert by_torch == ["a program"]
    x = np.random.default_rng(0).standard_normal((3, 4, 3, 2)).astype(np.float32)
    (made,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(made, module(torch.from_numpy(x))["made"].numpy())
