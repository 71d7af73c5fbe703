"""Modules behind a transformer: every kind is in the graph, and what it gives is what the library gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fixtures.exported import Exported
from fixtures.items import COMMIT, work_item
from onnx_fleet.bundles import stage
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.export import cache_keys, exporter
from onnx_fleet.export.exporter import ExportRequest
from onnx_fleet.source import checkpoint
from onnx_fleet.validation import validator

pytestmark = pytest.mark.timeout(600)


def _saved(folder: Path, small_repo: Path, name: str) -> Path:
    from fixtures import sentences as made  # imports sentence-transformers

    masked: Mapping[str, Any] = {"task": "fill-mask", "auto_class": "AutoModelForMaskedLM"}
    settings: Mapping[str, Mapping[str, Any]] = {
        "wide": {"behind": made.wide},
        "rare": {"behind": made.rare, "prompts": made.PROMPTS, "default_prompt_name": "query", "truncate_dim": 16},
        "per_token": {"behind": made.per_token, "config": {"output_hidden_states": True}},
        "splade": {"behind": partial(made.splade, "sum", "log1p_relu"), **masked},
        "coded": {"behind": made.coded, "is_sparse": True},
        "square": {"behind": made.square},
    }
    return made.save(folder / "acme" / name, tokenizer_from=small_repo, **settings[name])


def _item(source_dir: Path, *, task: str = "sentence-similarity", **changes: Any) -> WorkItem:
    item = work_item(source_dir, task=task)
    entry: Entry = replace(item.model.entry, **changes)
    return replace(item, model=replace(item.model, entry=entry))


def _filled(source_dir: Path, stage_dir: Path, *, item: WorkItem, graphs: Path | None = None) -> Exported:
    stage = Stage.make(stage_dir, item)
    stage.write_export(exporter.fill(ExportRequest(stage=stage, source_dir=source_dir, graphs=graphs)))
    return Exported(stage_dir=stage_dir, source_dir=source_dir)


def _rows(exported: Exported) -> list[CheckRow]:
    report = validator.validate(exported.stage, source_dir=exported.source_dir)
    assert report.passed, report.reason
    return [row for row in report.rows if row.check == "sentences"]


@pytest.mark.parametrize(
    ("name", "task", "first", "width", "cases"),
    [
        ("wide", "sentence-similarity", "last_hidden_state", 40, ["5 texts"]),
        (
            "rare",
            "feature-extraction",
            "last_hidden_state",
            24,
            ["5 texts after the prompt query, its default", "5 texts after the prompt document"],
        ),
        ("per_token", "sentence-similarity", "last_hidden_state", 20, ["5 texts"]),
        ("splade", "fill-mask", "logits", 1200, ["5 texts"]),
        ("coded", "feature-extraction", "last_hidden_state", 96, ["5 texts"]),
    ],
)
def test_the_graph_gives_what_the_library_gives(
    name: str, task: str, first: str, width: int, cases: list[str], small_repo: Path, tmp_path: Path
) -> None:
    source = _saved(tmp_path, small_repo, name)

    made = _filled(source, tmp_path / "stage", item=_item(source, task=task))

    (info,) = made.stage.read_export().graphs
    assert [spec.name for spec in info.outputs] == [first, "sentence_embedding"]
    assert info.outputs[1].shape == ("batch_size", width)
    assert [(row.case, row.finding) for row in _rows(made)] == [(case, "equal") for case in cases]
    weights = {path.relative_to(source) for path in source.glob("*/*.safetensors")}
    assert all((made.stage_dir / path).read_bytes() == (source / path).read_bytes() for path in weights)


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory, small_repo: Path) -> Exported:
    """A dense layer as wide as the model: nothing but values tells whether it is there."""
    folder = tmp_path_factory.mktemp("square")
    source = _saved(folder, small_repo, "square")
    return _filled(source, folder / "stage", item=_item(source))


def _other_weights(exported: Exported, folder: Path) -> Path:
    """The same model with a dense layer trained further."""
    from safetensors.numpy import load_file, save_file

    source = folder / "acme" / "further"
    shutil.copytree(exported.source_dir, source)
    path = source / "2_Dense" / "model.safetensors"
    save_file({name: values[::-1].copy() for name, values in load_file(path).items()}, path)
    return source


def test_another_fine_tune_takes_the_graphs_and_has_its_own_dense_layer(square: Exported, tmp_path: Path) -> None:
    source = _other_weights(square, tmp_path)
    keys = [
        cache_keys.of_graphs(_item(each), source_dir=each, tensors=checkpoint.read(each))
        for each in (square.source_dir, source)
    ]
    assert keys[0] == keys[1] is not None

    archive = square.stage_dir / stage.PRIVATE / "graphs.zip"
    made = _filled(source, tmp_path / "stage", item=_item(source), graphs=archive)

    assert [row.finding for row in _rows(made)] == ["equal"]


def test_another_activation_is_another_graph(square: Exported, tmp_path: Path) -> None:
    source = tmp_path / "acme" / "activation"
    shutil.copytree(square.source_dir, source)
    _change(source / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.ReLU")

    first, second = (
        cache_keys.of_graphs(_item(each), source_dir=each, tensors=checkpoint.read(each))
        for each in (square.source_dir, source)
    )
    assert first != second


def test_pickled_weights_of_a_module_are_in_the_graph_and_beside_it(square: Exported, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    source = tmp_path / "acme" / "pickled"
    shutil.copytree(square.source_dir, source)
    path = source / "2_Dense" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()

    made = _filled(source, tmp_path / "stage", item=_item(source, allow_pickle=COMMIT))

    assert [row.finding for row in _rows(made)] == ["equal"]
    assert (made.stage_dir / "2_Dense" / "model.safetensors").is_file()


def test_a_recipe_that_pools_otherwise_is_refused_in_words(square: Exported, tmp_path: Path) -> None:
    with pytest.raises(ExportUnsupported, match=r"'mean-normalized' pools otherwise .* Pooling by mean, Dense, Normal"):
        _filled(square.source_dir, tmp_path / "stage", item=_item(square.source_dir, recipe="mean-normalized"))


def test_a_pooling_that_leaves_the_prompt_out_is_refused(square: Exported, tmp_path: Path) -> None:
    source = tmp_path / "acme" / "prompt"
    shutil.copytree(square.source_dir, source)
    _change(source / "1_Pooling" / "config.json", include_prompt=False)

    with pytest.raises(ExportUnsupported, match=r"Pooling \(1_Pooling\) leaves the tokens of the prompt out"):
        _filled(source, tmp_path / "stage", item=_item(source))


def test_an_activation_that_is_not_torchs_is_refused_and_never_run(square: Exported, tmp_path: Path) -> None:
    source = tmp_path / "acme" / "own"
    shutil.copytree(square.source_dir, source)
    for name in ("acme.layers.Wave", "torch.hub.help", "os.abort"):
        _change(source / "2_Dense" / "config.json", activation_function=name)
        with pytest.raises(ExportUnsupported, match=f"activation_function {name}, which is no layer of torch.nn"):
            _filled(source, tmp_path / "stage", item=_item(source))


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


@pytest.mark.filterwarnings("ignore:Implicit dimension choice for softmax:UserWarning")  # of the library's own Softmax
@pytest.mark.parametrize(("labels", "activation"), [(1, None), (1, "Identity"), (3, "Softmax")])
def test_a_re_rankers_scores_are_those_of_predict(
    labels: int, activation: str | None, small_repo: Path, tmp_path: Path
) -> None:
    from torch import nn

    from fixtures.sentences import save_re_ranker

    layer = getattr(nn, activation)() if activation else None
    source = save_re_ranker(
        tmp_path / "acme" / "ranker", tokenizer_from=small_repo, num_labels=labels, activation=layer
    )
    made = _filled(source, tmp_path / "stage", item=_item(source, task="text-ranking"))

    assert [(row.case, row.output, row.finding) for row in _rows(made)] == [("3 pairs", "logits", "equal")]
