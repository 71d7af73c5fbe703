"""The weights in a bundle: the checkpoint's own bytes, each one once, as a consumer finds them in the written files."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from fixtures.deep import Deep, save_deep
from fixtures.items import work_item
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.errors import BundleCorrupt, ExportUnsupported, ModelInvalid
from onnx_fleet.export import exporter, weight_placement
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.source import checkpoint
from onnx_fleet.source.checkpoint import StoredTensor
from onnx_fleet.validation import validator

WIDE = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 1024}
"""Few tensors, and most of their bytes in matrices: as real checkpoints are, and unlike the zoo's own sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    deep: Deep
    stage_dir: Path
    record: ExportRecord

    @property
    def graph(self) -> Path:
        return self.stage_dir / "onnx/model.onnx"

    def require_right(self) -> None:
        """PyTorch, which reads the source by itself, has the same answers."""
        report = validator.validate(Stage.open(self.stage_dir), source_dir=self.deep.source_dir)
        assert [row for row in report.rows if not row.passed] == []
        assert report.passed


def _make(deep: Deep, stage_dir: Path, **settings: Any) -> _Made:
    return _Made(deep=deep, stage_dir=stage_dir, record=deep.fill(stage_dir, **settings))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Deep:
    """A BERT for masked tokens, its head tied to its embeddings."""
    return save_deep("BertForMaskedLM", tmp_path_factory.mktemp("source"), **WIDE)


@pytest.fixture(scope="module")
def outside(source: Deep, tmp_path_factory: pytest.TempPathFactory) -> _Made:
    """Exported with its weights beside the graph."""
    return _make(source.with_entry(weights="external"), tmp_path_factory.mktemp("outside") / "stage")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> _Made:
    """A T5: two graphs that share the embeddings, with nothing said about its weights."""
    folder = tmp_path_factory.mktemp("pair")
    deep = save_deep("T5ForConditionalGeneration", folder, num_layers=1, num_decoder_layers=1, d_model=64, d_ff=1024)
    return _make(deep, folder / "stage")


def _with_files(deep: Deep, folder: Path, files: Mapping[str, Mapping[str, np.ndarray]]) -> Deep:
    """The same model with its weights in other files; more than one have an index."""
    target = folder / "other" / deep.source_dir.name
    target.mkdir(parents=True)
    for path in deep.source_dir.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    for name, tensors in files.items():
        save_file(dict(tensors), target / name, metadata={"format": "pt"})
    if len(files) > 1:
        places = {tensor: name for name, tensors in files.items() for tensor in tensors}
        index = {"metadata": {"total_size": 0}, "weight_map": places}
        (target / "model.safetensors.index.json").write_text(json.dumps(index))
    needed = tuple(sorted(path.name for path in target.iterdir()))
    return Deep(
        item=replace(deep.item, model=replace(deep.item.model, needed=needed)),
        source_dir=target,
    )


def _stored(deep: Deep) -> dict[str, np.ndarray]:
    return {name: array for path in checkpoint.files(deep.source_dir) for name, array in load_file(path).items()}


def _weights(graph: Path) -> dict[str, np.ndarray]:
    """Every initializer as a consumer of ONNX reads it."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer}


def _locations(graph: Path) -> set[str]:
    model = onnx.load(graph, load_external_data=False)
    return {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }


def _require_the_checkpoints_bytes(made: _Made, graph: Path) -> None:
    stored, found = _stored(made.deep), _weights(graph)
    own = {name: value for name, value in found.items() if name in stored}
    assert len(own) >= 10
    for name, value in own.items():
        assert (value.dtype, value.shape) == (stored[name].dtype, stored[name].shape), name
        assert value.tobytes() == stored[name].tobytes(), name
    for name, value in found.items():
        assert name in own or value.nbytes < 4096, f"{name}: {value.nbytes} bytes that no checkpoint has"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# One file, as it came


def test_the_data_file_is_the_checkpoints_file(outside: _Made) -> None:
    assert _digest(outside.stage_dir / "onnx/model.onnx_data") == _digest(outside.deep.source_dir / "model.safetensors")
    assert outside.record.graphs[0].weight_files == ("onnx/model.onnx_data",)
    assert sorted(path.name for path in (outside.stage_dir / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]


def test_every_initializer_has_the_checkpoints_bytes(outside: _Made, pair: _Made) -> None:
    _require_the_checkpoints_bytes(outside, outside.graph)
    for role in ("encoder_model", "decoder_model_merged"):
        _require_the_checkpoints_bytes(pair, pair.stage_dir / f"onnx/{role}.onnx")


def test_what_was_written_is_right(outside: _Made, pair: _Made) -> None:
    outside.require_right()
    pair.require_right()


def test_tied_weights_are_there_once(outside: _Made) -> None:
    tied = [name for name, value in _weights(outside.graph).items() if value.shape == (120, 64)]

    assert tied == ["bert.embeddings.word_embeddings.weight"]


def test_the_data_file_is_a_copy_unless_a_link_is_asked_for(outside: _Made, source: Deep, tmp_path: Path) -> None:
    graphs = outside.stage_dir / ".onnx-fleet/graphs.zip"
    linked = _make(source.with_entry(weights="external"), tmp_path / "stage", graphs=graphs, link=True)
    given = (source.source_dir / "model.safetensors").stat()

    assert (linked.stage_dir / "onnx/model.onnx_data").stat().st_ino == given.st_ino
    assert (outside.stage_dir / "onnx/model.onnx_data").stat().st_ino != given.st_ino


def test_a_file_that_huggingface_hub_links_to_is_brought_itself(outside: _Made, source: Deep, tmp_path: Path) -> None:
    """Its snapshots are links into a folder of blobs, which may go."""
    snapshot = replace(source, source_dir=tmp_path / "snapshot")
    snapshot.source_dir.mkdir()
    for path in source.source_dir.iterdir():
        (snapshot.source_dir / path.name).symlink_to(path)
    graphs = outside.stage_dir / ".onnx-fleet/graphs.zip"
    for link in (False, True):
        made = _make(snapshot.with_entry(weights="external"), tmp_path / f"{link}", graphs=graphs, link=link)
        assert not (made.stage_dir / "onnx/model.onnx_data").is_symlink()
        assert _digest(made.stage_dir / "onnx/model.onnx_data") == _digest(source.source_dir / "model.safetensors")


# Inside or beside


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({}, ["model.onnx"]),
        ({"weights": "inline", "inline_max_bytes": 1}, ["model.onnx"]),
        ({"inline_max_bytes": 100_000}, ["model.onnx", "model.onnx_data"]),
        ({"weights": "external"}, ["model.onnx", "model.onnx_data"]),
    ],
    ids=["small", "inline", "large", "external"],
)
def test_where_weights_lie_is_by_size_or_as_the_entry_says(
    outside: _Made, source: Deep, tmp_path: Path, settings: Mapping[str, Any], files: list[str]
) -> None:
    graphs = outside.stage_dir / ".onnx-fleet/graphs.zip"
    made = _make(source.with_entry(**settings), tmp_path / "stage", graphs=graphs)
    config = json.loads((made.stage_dir / "config.json").read_text())

    assert sorted(path.name for path in (made.stage_dir / "onnx").iterdir()) == files
    _require_the_checkpoints_bytes(made, made.graph)
    assert ("transformers.js_config" in config) == (len(files) > 1)


def test_a_graph_of_more_than_protobuf_takes_is_not_put_inside(tmp_path: Path) -> None:
    """Nothing of the values is read to find out."""
    shape = (1 << 15, 1 << 14)
    stored = StoredTensor(
        name="table", file=tmp_path / "none", dtype="float32", shape=shape, offset=0, size_bytes=1 << 31
    )

    with pytest.raises(ExportUnsupported, match="take `weights: inline` out of the entry"):
        weight_placement.save_all(
            {"model": _graph(table=shape)}, tmp_path, tensors={"table": stored}, placement="inline"
        )


def test_graphs_that_share_weights_have_one_file(pair: _Made) -> None:
    folder = pair.stage_dir / "onnx"

    assert sorted(path.name for path in folder.iterdir()) == [
        "decoder_model_merged.onnx", "encoder_model.onnx", "encoder_model.onnx_data",
    ]  # fmt: skip
    for role in ("encoder_model", "decoder_model_merged"):
        assert _locations(folder / f"{role}.onnx") == {"encoder_model.onnx_data"}
    assert _digest(folder / "encoder_model.onnx_data") == _digest(pair.deep.source_dir / "model.safetensors")


def test_inline_gives_each_graph_its_own_copy(pair: _Made, tmp_path: Path) -> None:
    graphs = pair.stage_dir / ".onnx-fleet/graphs.zip"
    made = _make(pair.deep.with_entry(weights="inline"), tmp_path / "stage", graphs=graphs)

    assert {path.suffix for path in (made.stage_dir / "onnx").iterdir()} == {".onnx"}
    for role in ("encoder_model", "decoder_model_merged"):
        assert "shared.weight" in _weights(made.stage_dir / f"onnx/{role}.onnx")


# Other checkpoints


def test_a_sharded_checkpoints_files_are_the_data_files(outside: _Made, source: Deep, tmp_path: Path) -> None:
    stored = _stored(source)
    large = sorted(name for name, value in stored.items() if value.nbytes > 100_000)
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    small = {name: value for name, value in stored.items() if name not in large}
    parts = [{large[0]: stored[large[0]]}, {large[1]: stored[large[1]]}, {}]
    # What is left goes where it stays under a tenth of the file.
    parts[2] = small | {name: stored[name] for name in large[2:]}
    deep = _with_files(source, tmp_path, dict(zip(names, parts, strict=True)))
    made = _make(deep.with_entry(weights="external"), tmp_path / "stage")
    config = json.loads((made.stage_dir / "config.json").read_text())
    data = ("model.onnx_data", "model.onnx_data_1", "model.onnx_data_2")

    assert made.record.graphs[0].weight_files == tuple(f"onnx/{name}" for name in data)
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": 3}}
    for name, shard in zip(data[:2], names, strict=False):
        assert _digest(made.stage_dir / "onnx" / name) == _digest(deep.source_dir / shard)
    _require_the_checkpoints_bytes(made, made.graph)
    made.require_right()
    assert made.graph.read_bytes() != outside.graph.read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_becomes_float32_in_one_file(source: Deep, tmp_path: Path, dtype: Any) -> None:
    halves = {name: value.astype(dtype) for name, value in _stored(source).items()}
    deep = _with_files(source, tmp_path, {"model.safetensors": halves})
    made = _make(deep.with_entry(weights="external"), tmp_path / "stage")
    found = _weights(made.graph)

    assert sorted(path.name for path in (made.stage_dir / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]
    own = {name: value for name, value in found.items() if name in halves}
    assert len(own) >= 10
    for name, value in own.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, halves[name].astype(np.float32), err_msg=name)
    size = sum(value.nbytes for value in own.values())
    assert (made.stage_dir / "onnx/model.onnx_data").stat().st_size < 1.02 * size
    made.require_right()


def test_a_checkpoint_that_is_mostly_unused_is_not_carried_along(source: Deep, outside: _Made, tmp_path: Path) -> None:
    stored = _stored(source)
    unused = {"optimizer.state": np.ones(sum(value.nbytes for value in stored.values()) // 20, np.float32)}
    deep = _with_files(source, tmp_path, {"model.safetensors": stored | unused})
    graphs = outside.stage_dir / ".onnx-fleet/graphs.zip"
    made = _make(deep.with_entry(weights="external"), tmp_path / "stage", graphs=graphs)
    used = sum(value.nbytes for name, value in _weights(made.graph).items() if name in stored)

    assert (made.stage_dir / "onnx/model.onnx_data").stat().st_size <= 1.02 * used
    _require_the_checkpoints_bytes(made, made.graph)


def test_weights_that_could_be_tied_and_differ_stay_two(source: Deep, tmp_path: Path) -> None:
    """config.json says that the head is tied, and the checkpoint has two that differ: transformers keeps both."""
    stored = _stored(source)
    head = {"cls.predictions.decoder.weight": np.flip(stored["bert.embeddings.word_embeddings.weight"]).copy()}
    deep = _with_files(source, tmp_path, {"model.safetensors": stored | head})
    made = _make(deep.with_entry(weights="external"), tmp_path / "stage")

    assert made.record.graphs
    assert head.keys() <= _weights(made.graph).keys()
    assert (made.stage_dir / ".onnx-fleet/graphs.zip").exists(), "it was loaded whole"
    _require_the_checkpoints_bytes(made, made.graph)
    made.require_right()


RECIPE = """
from onnx_fleet.recipes import Recipe


def _double(model):
    model.base_model.embeddings.word_embeddings.weight.data.mul_(2)


doubled = Recipe(summary="embeddings of twice the size", prepare=_double)
"""


def test_weights_that_a_recipe_changes_are_written_and_the_others_stay(
    source: Deep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own/recipes"
    folder.mkdir(parents=True)
    (folder / "doubling.py").write_text(RECIPE)
    monkeypatch.syspath_prepend(folder.parent)
    importlib.invalidate_caches()
    made = _make(source.with_entry(weights="external", recipe="recipes.doubling:doubled"), tmp_path / "stage")
    stored, found = _stored(source), _weights(made.graph)
    changed = "bert.embeddings.word_embeddings.weight"

    np.testing.assert_array_equal(found[changed], 2 * stored[changed])
    for name in stored.keys() & found.keys() - {changed}:
        assert found[name].tobytes() == stored[name].tobytes(), name
    assert made.record.graph_key is None
    assert not (made.stage_dir / ".onnx-fleet/graphs.zip").exists()
    made.require_right()


# Graphs and checkpoints that do not fit


def _graph(**shapes: tuple[int, ...]) -> onnx.ModelProto:
    """Gives its weights back, all of them the checkpoint's."""
    tensors = []
    for name, shape in shapes.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"{weight_placement.SCHEME}{name}")
        tensors.append(tensor)
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "given", [], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((8, 64), r"table has the shape \[64, 8\] in the checkpoint"), ((64, 8), "other is missing")],
)
def test_a_graph_of_another_checkpoint_is_refused(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    save_file({"table": np.ones((64, 8), np.float32)}, tmp_path / "model.safetensors")
    model = _graph(table=shape) if shape == (8, 64) else _graph(table=shape, other=(4,))

    with pytest.raises(BundleCorrupt, match=message):
        weight_placement.save_all({"model": model}, tmp_path / "onnx", tensors=checkpoint.read(tmp_path))


def test_only_graphs_that_share_a_weight_share_a_file(tmp_path: Path) -> None:
    """One that shares with two others brings these together too."""
    shape = (64, 64)
    save_file(
        {name: np.full(shape, index, np.float32) for index, name in enumerate("abcd")}, tmp_path / "model.safetensors"
    )
    models = {
        "first": _graph(a=shape),
        "second": _graph(b=shape, c=shape),
        "third": _graph(d=shape),
        "fourth": _graph(c=shape, a=shape),
    }
    paths = weight_placement.save_all(models, tmp_path / "onnx", tensors=checkpoint.read(tmp_path), inline_max_bytes=10)

    assert {role: _locations(path) for role, path in paths.items()} == {
        "first": {"first.onnx_data"},
        "second": {"first.onnx_data"},
        "third": {"third.onnx_data"},
        "fourth": {"first.onnx_data"},
    }
    assert {path: value[0, 0] for path, value in _weights(paths["fourth"]).items()} == {"c": 2, "a": 0}
    assert _weights(paths["third"])["d"][0, 0] == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x10\0\0\0\0\0\0\0not JSON at all!",
        b'\x4c\0\0\0\0\0\0\0{"table": {"dtype": "F32", "shape": [64, 8], "data_offsets": [0, 2048]}}    ' + bytes(10),
        b'\x4c\0\0\0\0\0\0\0{"table": {"dtype": "F32", "shape": [64, 8], "data_offsets": [-9, 8]}}      ' + bytes(10),
    ],
    ids=["empty", "length", "header", "cut", "outside"],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(ModelInvalid, match=r"model\.safetensors is not readable as safetensors"):
        checkpoint.read(tmp_path)


def test_an_index_that_names_no_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')

    with pytest.raises(ModelInvalid, match="names no shards"):
        checkpoint.read(tmp_path)


# Beyond 2 GiB


def _write_large(source: Path, target: Path, *, table: str, rows: int) -> None:
    """The checkpoint with more rows in one table, random ones, a piece at a time."""
    stored = {name: value for name, value in load_file(source).items() if name != table}
    first = load_file(source)[table]
    header, start = {}, 0
    shapes = {**{name: value.shape for name, value in stored.items()}, table: (rows, first.shape[1])}
    for name, shape in shapes.items():
        end = start + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    generator = np.random.default_rng(20)
    with target.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for value in stored.values():
            file.write(value.tobytes())
        file.write(first.tobytes())
        left = rows - len(first)
        while left:
            count = min(left, 1 << 14)
            file.write(generator.standard_normal((count, first.shape[1]), dtype=np.float32).tobytes())
            left -= count


@pytest.mark.slow
def test_a_model_of_more_than_2_gib_is_its_checkpoints_file(tmp_path: Path) -> None:
    """Its first rows are a small model's, so that both have the same answers to tokens of that one."""
    small = save_deep("BertModel", tmp_path, num_hidden_layers=1, hidden_size=512, num_attention_heads=8)
    small_stage = _make(small, tmp_path / "small").graph
    rows = 1_100_000
    large = _with_files(small, tmp_path, {})
    config = json.loads((large.source_dir / "config.json").read_text())
    (large.source_dir / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    weights_file = large.source_dir / "model.safetensors"
    _write_large(
        small.source_dir / "model.safetensors", weights_file, table="embeddings.word_embeddings.weight", rows=rows
    )
    large = replace(large, item=work_item(large.source_dir, task=large.item.model.task))
    limits = Limits(memory_bytes=6 << 30, timeout_s=240)
    record = exporter.export(
        Stage(tmp_path / "stage", large.item), source_dir=large.source_dir, limits=limits, link=True
    )
    print(f"{record.duration_s:.1f} s, {record.peak_memory_bytes >> 20} MiB")
    data = tmp_path / "stage/onnx/model.onnx_data"
    ids = np.array([[2, 9, 30, 100, 119], [2, 50, 51, 3, 0]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    answers = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for graph in (small_stage, tmp_path / "stage/onnx/model.onnx")
    ]

    assert data.stat().st_size > 1 << 31
    assert data.stat().st_ino == weights_file.stat().st_ino
    assert record.peak_memory_bytes < data.stat().st_size / 2
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
