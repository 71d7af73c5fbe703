"""Sessions run where they were asked to run, or say why not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnx_fleet.entities.graph_info import TensorSpec
from onnx_fleet.errors import GpuUnavailable, ValidationFailed, WorkerOutOfResources
from onnx_fleet.graphs.placement import read_placement, require_placed
from onnx_fleet.graphs.session import open_session
from onnx_fleet.processes import hardware
from onnx_fleet.processes.gpu import GpuOptions

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """scaled = x @ ones[64, 64] * largest size of x; float32 [rows, 64]: one product, and shape arithmetic."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [64, 64], np.ones(64 * 64, dtype=np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="product"),
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Cast", ["shape"], ["sizes"], name="sizes", to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["sizes"], ["largest"], name="largest", keepdims=0),
        helper.make_node("Mul", ["product", "largest"], ["scaled"], name="scaled"),
    ]
    x, scaled = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 64]) for name in ("x", "scaled"))
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", [x], [scaled], initializer=[weight]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def event(name: str, op: str, provider: str, inputs: list[Any], outputs: list[Any]) -> dict[str, Any]:
    """One node's execution, with the fields of onnxruntime 1.31's profile that say where it ran and on what."""
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "args": {"op_name": op, "provider": provider, "input_type_shape": inputs, "output_type_shape": outputs},
    }


def recorded(tmp_path: Path, *, softmax_on: str, mask_on: str = CPU) -> Path:
    """A profile of a BERT layer, cut from a real one, as if its work had run on CUDA and its shapes on the CPU."""
    hidden, scores = {"float": [1, 5, 384]}, {"float": [1, 12, 5, 5]}
    events = [
        {"cat": "Session", "name": "session_initialization", "args": {}},
        event("node_Shape_0", "Shape", CPU, [{"int64": [1, 5]}], [{"int64": [1]}]),
        event("node_Range_9", "Range", CPU, [{"int64": []}] * 3, [{"int64": [5]}]),
        event("node_And_12", "And", CPU, [{"bool": [1, 1, 5, 1]}, {"bool": [1, 1, 1, 5]}], [{"bool": [1, 1, 5, 5]}]),
        event("node_Where_14", "Where", mask_on, [{"bool": [1, 1, 5, 5]}, {"float": []}], [{"float": [1, 1, 5, 5]}]),
        event("node_Gather_1", "Gather", CUDA, [{"float": [30522, 384]}, {"int64": [1, 5]}], [hidden]),
        event("node_MatMul_20", "MatMul", CUDA, [hidden, {"float": [384, 384]}], [hidden]),
        event("node_Softmax_31", "Softmax", softmax_on, [scores], [scores]),
        event("node_Softmax_31", "Softmax", softmax_on, [scores], [scores]),
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    return path


def test_shape_and_mask_arithmetic_may_stay_on_the_cpu(tmp_path: Path) -> None:
    placement = read_placement(recorded(tmp_path, softmax_on=CUDA), execution_provider=CUDA)

    assert placement.placed
    assert placement.nodes_by_provider == {CPU: 4, CUDA: 3}
    require_placed(placement, graph="onnx/model.onnx")


def test_a_computing_node_on_the_cpu_is_named(tmp_path: Path) -> None:
    placement = read_placement(recorded(tmp_path, softmax_on=CPU), execution_provider=CUDA)

    assert placement.strays == ("Softmax x1",)
    with pytest.raises(GpuUnavailable, match=r"onnx/model\.onnx: asked for CUDA.*Softmax x1.*CPUExecutionProvider 5"):
        require_placed(placement, graph="onnx/model.onnx")


def test_a_provider_that_takes_no_node_is_not_believed(graph: Path, tmp_path: Path) -> None:
    """Live: the CPU wheel's second provider makes a session without complaint, and runs nothing."""
    feeds = {"x": np.ones((3, 64), dtype=np.float32)}

    session = open_session(graph, provider="azure", threads=1, profile_dir=tmp_path)
    placement = session.prove_placement(feeds)

    assert not placement.placed
    assert placement.nodes_by_provider.keys() == {CPU}
    with pytest.raises(GpuUnavailable, match="MatMul"):
        require_placed(placement, graph=graph.name)


def test_a_cpu_session_is_placed_on_the_cpu(graph: Path, tmp_path: Path) -> None:
    feeds = {"x": np.ones((3, 64), dtype=np.float32)}

    session = open_session(graph, threads=1, profile_dir=tmp_path)

    assert session.prove_placement(feeds).placed
    assert session.placement is not None
    assert session.run(feeds).keys() == {"scaled"}


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_without_cuda_says_what_to_install(graph: Path) -> None:
    with pytest.raises(GpuUnavailable, match=r"offers .*CPUExecutionProvider; install requirements-gpu\.txt"):
        open_session(graph, provider="cuda")


def test_an_unknown_provider_is_refused_by_name(graph: Path) -> None:
    with pytest.raises(GpuUnavailable, match=r"unknown provider 'tpu'; write one of cpu, cuda"):
        open_session(graph, provider="tpu")


def test_a_session_gives_every_output_by_name_and_says_its_shapes(graph: Path) -> None:
    session = open_session(graph, threads=1)

    outputs = session.run({"x": np.ones((3, 64), dtype=np.float32), "unused": np.zeros(1)})

    assert outputs.keys() == {"scaled"}
    assert outputs["scaled"][0, 0] == 64 * 64
    assert session.inputs == (TensorSpec(name="x", dtype="float32", shape=("rows", 64)),)
    assert session.threads == 1
    assert session.load_time_s > 0


def test_a_bound_call_runs_on_what_was_bound_and_leaves_its_outputs_where_they_are(graph: Path) -> None:
    session = open_session(graph, threads=1)
    seen: list[int] = []

    call = session.bind({"x": np.ones((3, 64), dtype=np.float32), "unused": np.zeros(1)})
    session.on_run = lambda feeds: seen.append(len(feeds))
    call()
    call()

    assert not seen, "nothing goes through run"
    with pytest.raises(ValidationFailed, match=r"model\.onnx does not run on x \[3, 5\]"):
        session.bind({"x": np.ones((3, 5), dtype=np.float32)})()


def test_who_listens_is_told_of_feeds_that_are_noted_as_of_those_that_are_run(graph: Path) -> None:
    session = open_session(graph, threads=1)
    told: list[Mapping[str, np.ndarray]] = []
    session.on_run = told.append
    feeds = {"x": np.ones((3, 64), dtype=np.float32), "unused": np.zeros(1)}

    session.run(feeds)
    session.note(feeds)
    session.note({"x": np.ones((3, 5), dtype=np.float32)})  # which it would refuse to run on

    assert [list(each) for each in told] == [["x"], ["x"], ["x"]]
    assert told[0]["x"] is told[1]["x"]


def test_too_little_memory_is_a_worker_out_of_resources_and_not_a_wrong_graph(tmp_path: Path) -> None:
    """y = x expanded to as many numbers as x says."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["numbers"])
    made = helper.make_node("ConstantOfShape", ["x"], ["y"])
    graph = helper.make_graph([made], "large", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "large.onnx"
    )
    session = open_session(tmp_path / "large.onnx", threads=1)

    assert session.run({"x": np.array([3])})["y"].shape == (3,)
    with pytest.raises(WorkerOutOfResources, match=r"large\.onnx does not run on x \[1\].*smaller"):
        session.run({"x": np.array([1 << 46])})


def test_a_name_with_oom_in_it_says_nothing_of_memory(graph: Path) -> None:
    model = onnx.load(graph)
    model.graph.input[0].name = "room"
    for node in model.graph.node:
        node.input[:] = ["room" if name == "x" else name for name in node.input]
    onnx.save(model, graph)
    session = open_session(graph, threads=1)

    with pytest.raises(ValidationFailed, match=r"does not run on room.*: .*room"):
        session.run({"room": np.ones((3, 5), dtype=np.float32)})


def test_a_gpu_and_its_limit_are_options_of_the_provider() -> None:
    assert GpuOptions().provider_options() == {"device_id": "0"}
    chosen = GpuOptions(device_id=1, memory_bytes=2 << 30)
    assert chosen.provider_options() == {"device_id": "1", "gpu_mem_limit": str(2 << 30)}
    assert chosen.torch_device == "cuda:1"


def test_feeds_that_do_not_fit_name_their_shapes(graph: Path) -> None:
    session = open_session(graph, threads=1)

    with pytest.raises(ValidationFailed, match=r"model\.onnx does not run on x \[3, 5\]"):
        session.run({"x": np.ones((3, 5), dtype=np.float32)})


def test_a_missing_feed_is_a_clear_error(graph: Path) -> None:
    with pytest.raises(ValidationFailed, match=r"does not run on .*Required inputs"):
        open_session(graph, threads=1).run({})


@pytest.mark.parametrize("content", [b"", b"not a graph"], ids=["empty", "garbage"])
def test_a_file_that_is_no_graph_does_not_load(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(ValidationFailed, match=r"model\.onnx does not load in onnxruntime"):
        open_session(tmp_path / "model.onnx")


def test_a_missing_graph_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match="does not load"):
        open_session(tmp_path / "model.onnx")


def test_hardware_facts_say_what_a_latency_depends_on() -> None:
    facts = hardware.hardware()

    assert facts["cpu_model"]
    assert 1 <= int(facts["cores_usable"]) <= int(facts["cores_total"])
    assert int(facts["memory_bytes"]) > 2**28
    assert "gpu_model" not in facts
    assert hardware.hardware(gpu_id=0)["gpu_model"]


def test_neither_the_runtime_nor_the_facts_of_the_machine_import_torch() -> None:
    code = (
        "import sys, onnx_fleet.graphs.session, onnx_fleet.processes.hardware as m; m.versions(); m.hardware();"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
