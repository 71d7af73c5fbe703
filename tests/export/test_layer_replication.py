"""Graphs of a deep model from a trace of three of its layers: the same as a trace of all, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.deep import LAYERS, Deep, save_deep
from onnx_fleet.bundles import stage
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.export import layer_replication, layer_truncation, traced_model, weight_placement
from onnx_fleet.export.layer_replication import Irregular
from onnx_fleet.source import checkpoint, families
from onnx_fleet.source.placeholder_weights import PlaceholderWeights
from onnx_fleet.validation import validator

ALIKE = (
    "BertForSequenceClassification",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "T5ForConditionalGeneration",
)
DECODING = {
    "GPT2LMHeadModel": {"model"},
    "LlamaForCausalLM": {"model"},
    "T5ForConditionalGeneration": {"decoder_model_merged"},
}
"""The graphs that take and give caches."""

FULLY = ("BertForSequenceClassification", "GPT2LMHeadModel")
"""Traced whole beside it; the others are held to PyTorch alone, for a whole trace of theirs takes half a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unrolled:
    """A model's export, and its graphs without weights."""

    deep: Deep
    record: ExportRecord
    graphs: Mapping[str, onnx.ModelProto]
    stage_dir: Path

    @property
    def stage(self) -> Stage:
        """The stage as it is now."""
        return Stage.open(self.stage_dir)


@pytest.fixture(scope="module", params=ALIKE)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Unrolled:
    folder = tmp_path_factory.mktemp("unrolled")
    deep = save_deep(request.param, folder)
    record = deep.fill(folder / "stage")
    graphs = traced_model.unpack((folder / "stage" / stage.PRIVATE / "graphs.zip").read_bytes()).graphs
    return _Unrolled(deep=deep, record=record, graphs=graphs, stage_dir=folder / "stage")


def test_layers_that_are_alike_are_traced_once_and_repeated(made: _Unrolled) -> None:
    assert made.record.traced == "unrolled"


def test_every_layer_is_bound_to_its_own_tensors(made: _Unrolled) -> None:
    """All of the checkpoint is used, by its names and shapes, and each layer's norm by a node of its own."""
    stored = {name: tensor.shape for name, tensor in checkpoint.read(made.deep.source_dir).items()}
    bound: dict[str, tuple[int, ...]] = {}
    for model in made.graphs.values():
        bound |= weight_placement.references(model)

    assert bound == stored
    for layer in range(LAYERS):
        assert any(f".{layer}." in name for name in bound)


def test_caches_are_in_the_order_of_the_layers(made: _Unrolled) -> None:
    decoding = set()
    for role, model in made.graphs.items():
        for values in (model.graph.input, model.graph.output):
            names = [value.name for value in values]
            layers = [int(name.split(".")[1]) for name in names if name.startswith(("past_key_values.", "present."))]
            assert layers == sorted(layers)
            assert len(set(names)) == len(names)
            if layers:
                assert set(layers) == set(range(LAYERS))
                decoding.add(role)
    assert decoding == DECODING.get(made.deep.source_dir.name, set())


def test_it_computes_what_pytorch_does(made: _Unrolled) -> None:
    report = validator.validate(made.stage, source_dir=made.deep.source_dir)

    assert report.rows
    assert [row for row in report.rows if not row.passed] == []
    assert report.passed


@pytest.mark.parametrize("made", FULLY, indirect=True)
def test_it_is_what_the_trace_of_every_layer_is(made: _Unrolled, tmp_path: Path) -> None:
    """The same inputs, outputs, weights and kinds of nodes, for each graph."""
    full = made.deep.trace(tmp_path, whole=True)
    assert full.way == "full"
    assert full.graphs.keys() == made.graphs.keys()
    for role, wanted in full.graphs.items():
        found = made.graphs[role]
        assert [value.name for value in found.graph.input] == [value.name for value in wanted.graph.input]
        assert [value.name for value in found.graph.output] == [value.name for value in wanted.graph.output]
        assert weight_placement.references(found) == weight_placement.references(wanted)
        assert Counter(node.op_type for node in found.graph.node) == Counter(node.op_type for node in wanted.graph.node)


def test_layers_that_differ_are_traced_whole_and_right(tmp_path: Path) -> None:
    """The first three are global, the last two local, and only a buffer of each tells."""
    deep = save_deep("GPTNeoForCausalLM", tmp_path, attention_types=[[["global"], 3], [["local"], 2]])
    record = deep.fill(tmp_path / "stage")
    report = validator.validate(Stage.open(tmp_path / "stage"), source_dir=deep.source_dir)

    assert record.traced == "full"
    assert [row for row in report.rows if not row.passed] == []
    assert report.passed


_SLIDING, _FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("name", "differing", "found"),
    [
        ("Gemma3ForCausalLM", {"layer_types": [_SLIDING] * 5}, ["model.layers"]),
        ("Gemma3ForCausalLM", {"layer_types": [_SLIDING] * 4 + [_FULL]}, []),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 1, 1, 1, 1]}, ["model.layers"]),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 1, 1, 0, 1]}, []),
        ("LlamaForCausalLM", {"num_hidden_layers": 4}, []),
    ],
)
def test_only_layers_that_are_set_alike_are_a_stack(
    name: str, differing: dict[str, object], found: list[str], tmp_path: Path
) -> None:
    """Also where the first three would not show the difference, as with one global layer after five local ones."""
    deep = save_deep(name, tmp_path, **differing)
    stand_in = PlaceholderWeights(checkpoint.read(deep.source_dir).values())
    model = families.family(deep.item.family).load(deep.item, deep.source_dir, stand_in)

    assert stand_in.accounts_for(model)
    assert [stack.path for stack in layer_truncation.stacks(model, stand_in.names)] == found


_DEPTH = 5
_NAMES = tuple(f"layers.{layer}.weight" for layer in range(_DEPTH))


def _reference(name: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=f"{weight_placement.SCHEME}{name}")
    return tensor


def _stack(*, change: Callable[[onnx.GraphProto], None] = lambda graph: None) -> onnx.ModelProto:
    """x -> (x + one) * weight three times, each layer with its own name for the same constant; then negated."""
    nodes, value = [], "x"
    for layer in range(3):
        nodes += [
            helper.make_node("Add", [value, f"one_{layer}"], [f"moved_{layer}"], name=f"add_{layer}"),
            helper.make_node("Mul", [f"moved_{layer}", _NAMES[layer]], [f"made_{layer}"], name=f"mul_{layer}"),
        ]
        value = f"made_{layer}"
    nodes.append(helper.make_node("Neg", [value], ["y"], name="neg"))
    ones = [numpy_helper.from_array(np.ones(2, dtype=np.float32), f"one_{layer}") for layer in range(3)]
    shape = ["batch_size", 2]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [*ones, *(_reference(name) for name in _NAMES[:3])],
    )
    change(graph)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def _unrolled(model: onnx.ModelProto) -> onnx.ModelProto:
    layer_replication.unroll(model, [_NAMES], path="layers")
    return model


def _run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """With layer n's weight all n + 2."""
    for tensor in model.graph.initializer:
        if tensor.external_data:
            layer = _NAMES.index(tensor.name)
            tensor.CopyFrom(numpy_helper.from_array(np.full(2, layer + 2, dtype=np.float32), tensor.name))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def _after(layers: int) -> float:
    value = 1.0
    for layer in range(layers):
        value = (value + 1) * (layer + 2)
    return value


def test_a_stack_is_repeated_to_its_depth() -> None:
    model = _unrolled(_stack())

    assert [node.op_type for node in model.graph.node] == ["Add", "Mul"] * _DEPTH + ["Neg"]
    assert sorted(weight_placement.references(model)) == list(_NAMES)
    assert _run(model, np.ones((1, 2), dtype=np.float32))["y"].tolist() == [[-_after(_DEPTH)] * 2]


def test_an_output_that_the_last_layer_makes_stays_the_last_layers() -> None:
    def change(graph: onnx.GraphProto) -> None:
        del graph.node[-1]
        _node(graph, "mul_2").output[0] = "y"

    model = _unrolled(_stack(change=change))

    assert _run(model, np.ones((1, 2), dtype=np.float32))["y"].tolist() == [[_after(_DEPTH)] * 2]


def test_a_graph_that_reads_no_layer_stays_as_it_is() -> None:
    model = _stack()
    before = model.SerializeToString(deterministic=True)
    layer_replication.unroll(model, [("other.0", "other.1", "other.2", "other.3", "other.4")], path="other")

    assert model.SerializeToString(deterministic=True) == before


def _weight_read_after(graph: onnx.GraphProto) -> None:
    _node(graph, "neg").op_type = "Sub"
    _node(graph, "neg").input.append(_NAMES[2])


def _value_read_after(graph: onnx.GraphProto) -> None:
    _node(graph, "neg").op_type = "Sub"
    _node(graph, "neg").input.append("made_1")


def _value_of_the_first_layer_read_by_the_third(graph: onnx.GraphProto) -> None:
    _node(graph, "add_2").input[1] = "made_0"


def _first_layer_in_both(graph: onnx.GraphProto) -> None:
    """What layer 0 makes is what 1 and 2 add: the same for every layer, as T5's position bias."""
    for layer in (1, 2):
        _node(graph, f"add_{layer}").input[1] = "moved_0"


def _weight_read_before(graph: onnx.GraphProto) -> None:
    early = helper.make_node("Mul", ["x", _NAMES[2]], ["early"], name="early")
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([early, *rest])


def _other_constant(graph: onnx.GraphProto) -> None:
    constant = next(tensor for tensor in graph.initializer if tensor.name == "one_2")
    constant.CopyFrom(numpy_helper.from_array(np.full(2, 1.5, dtype=np.float32), "one_2"))


def _other_operator(graph: onnx.GraphProto) -> None:
    _node(graph, "add_2").op_type = "Sub"


def _one_more_node(graph: onnx.GraphProto) -> None:
    more = helper.make_node("Relu", ["made_1"], ["more"], name="relu")
    rest = list(graph.node)
    _node(graph, "add_2").input[0] = "more"
    del graph.node[:]
    graph.node.extend([*rest[:4], more, *rest[4:]])


def _layers_in_another_order(graph: onnx.GraphProto) -> None:
    _node(graph, "mul_1").input[1], _node(graph, "mul_2").input[1] = _NAMES[2], _NAMES[1]


@pytest.mark.parametrize(
    "change",
    [
        _weight_read_after,
        _value_read_after,
        _value_of_the_first_layer_read_by_the_third,
        _weight_read_before,
        _other_constant,
        _other_operator,
        _one_more_node,
        _layers_in_another_order,
    ],
)
def test_what_does_not_repeat_is_refused(change: Callable[[onnx.GraphProto], None]) -> None:
    with pytest.raises(Irregular):
        _unrolled(_stack(change=change))


def test_what_the_first_layer_makes_for_all_is_read_by_all() -> None:
    model = _unrolled(_stack(change=_first_layer_in_both))
    value = (1.0 + 1) * 2
    for layer in range(1, _DEPTH):
        value = (value + 2) * (layer + 2)

    assert _run(model, np.ones((1, 2), dtype=np.float32))["y"].tolist() == [[-value] * 2]


def test_the_value_before_the_stack_is_not_taken_for_the_layer_before() -> None:
    """Layer n adds x, which is what layer 0 reads in the place where the others read the layer before."""

    def change(graph: onnx.GraphProto) -> None:
        for layer in range(3):
            _node(graph, f"add_{layer}").input[1] = "x"

    model = _unrolled(_stack(change=change))

    assert _run(model, np.ones((1, 2), dtype=np.float32))["y"].tolist() == [[-_after(_DEPTH)] * 2]
