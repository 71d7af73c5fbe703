"""Repos whose model does not lie at the root, or is none of transformers': held to the library that they were saved by.

What is published is asked through its own tokenizer.json and onnxruntime alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from fixtures.items import work_item
from fixtures.stages import NOW, PROVENANCE
from onnx_fleet.bundles import seal
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.conventions import sentence_modules
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.resolved_model import ResolvedModel, laid_out
from onnx_fleet.errors import ExportUnsupported, ModelInvalid
from onnx_fleet.export import exporter
from onnx_fleet.export.exporter import ExportRequest
from onnx_fleet.runs import restored_stage
from onnx_fleet.runs.restored_stage import Trust
from onnx_fleet.source.download import download
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.resolve import resolve
from onnx_fleet.validation import validator
from onnx_fleet_demo.hub_server import HubServer

pytestmark = pytest.mark.timeout(600)

TEXTS = ["Prices rose in the winter garden.", "Rain.", "", "a quick brown fox and a lazy dog " * 3]
OF_THE_REPO = {"modules.json", "config_sentence_transformers.json", "README.md"}

Ask = Callable[[Sequence[str]], np.ndarray]


def _in_folder(repo: Path, name: str) -> None:
    """Move the first module's files to a folder, as sentence-transformers kept them before version 2."""
    (repo / name).mkdir()
    for path in [path for path in repo.iterdir() if path.is_file() and path.name not in OF_THE_REPO]:
        path.rename(repo / name / path.name)
    modules = json.loads((repo / "modules.json").read_bytes())
    (repo / "modules.json").write_text(json.dumps([{**modules[0], "path": name}, *modules[1:]]))


def _static(repo: Path, small_repo: Path, **settings: Any) -> Path:
    from fixtures import sentences  # imports sentence-transformers

    tokenizer = Tokenizer.from_file(str(small_repo / "tokenizer.json"))
    assert len(tokenizer.encode("rain").ids) > len(tokenizer.encode("rain", add_special_tokens=False).ids)
    return sentences.save_table(repo, tokenizer_from=small_repo, **settings)


def _as_model2vec(repo: Path) -> None:
    """The names and the half precision that the package model2vec saves."""
    table = load_file(repo / "model.safetensors")["embedding.weight"]
    save_file({"embeddings": table.half()}, repo / "model.safetensors")
    told = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True, "hidden_dim": 24}
    (repo / "config.json").write_text(json.dumps(told))


def _library(repo: Path) -> Ask:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(repo), device="cpu", local_files_only=True).float()
    return lambda texts: np.asarray(model.encode(list(texts)))


def _bundle(folder: Path) -> Ask:
    """As a consumer without the library asks it: by tokenizer.json, the length of its settings, and the graph."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    tokenizer.enable_truncation(min(settings["model_max_length"], 10_000))
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    pads, names = tokenizer.token_to_id(settings["pad_token"]), {each.name for each in session.get_inputs()}

    def ask(texts: Sequence[str]) -> np.ndarray:
        rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        width = max(map(len, rows)) + 2
        ids = np.array([[*row, *[pads] * (width - len(row))] for row in rows], np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found = session.run(["sentence_embedding"], {name: feeds[name] for name in names})
        return np.asarray(found[0])

    return ask


def _exported(model: ResolvedModel, hub: Hub, stage_dir: Path) -> Path:
    """The source's folder, after an export and a validation that passed."""
    source = download(model, hub=hub)
    item = replace(work_item(source, task=model.task), model=model)
    stage = Stage.make(stage_dir, item)
    stage.write_export(exporter.fill(ExportRequest(stage=stage, source_dir=source)))
    report = validator.validate(stage, source_dir=source)
    stage.write_report("validation", report)
    assert report.passed, report.reason
    rows = [row for row in report.rows if row.check == "sentences"]
    assert rows
    assert {row.finding for row in rows} == {"equal"}
    return source


def test_a_transformer_in_a_folder_is_published_at_the_root(
    hub: Hub, hub_server: HubServer, small_repo: Path, tmp_path: Path
) -> None:
    from fixtures import sentences

    repo = sentences.save(hub_server.repos.root / "acme" / "old", tokenizer_from=small_repo, behind=sentences.wide)
    _in_folder(repo, "0_Transformer")
    # What old repos have at the root is none of the transformer's, whatever it is called.
    (repo / "config.json").write_text('{"__version__": "0.2.0"}')
    (repo / "tokenizer.json").write_text("{}")
    model = resolve(Entry(repo_id="acme/old", task="sentence-similarity"), hub=hub)

    source = _exported(model, hub, tmp_path / "stage")

    assert (model.folder, model.architecture) == ("0_Transformer", "BertModel")
    assert {"0_Transformer/config.json", "0_Transformer/model.safetensors", "2_Dense/model.safetensors"} <= {
        file.path for file in model.sources.values()
    }
    assert not {"config.json", "tokenizer.json"} & {file.path for file in model.sources.values()}
    assert (source / sentence_modules.AS_PUBLISHED / "0_Transformer").is_dir()
    packed = json.loads((tmp_path / "stage" / "modules.json").read_bytes())
    assert [each["path"] for each in packed[:2]] == ["", "1_Pooling"]
    np.testing.assert_allclose(_bundle(tmp_path / "stage")(TEXTS), _library(repo)(TEXTS), atol=2e-6)


@pytest.mark.parametrize("layout", ["root", "folder", "model2vec", "cut"])
def test_a_table_of_vectors_gives_what_the_library_gives(
    layout: str, hub: Hub, hub_server: HubServer, small_repo: Path, tmp_path: Path
) -> None:
    repo = hub_server.repos.root / "acme" / "static"
    _static(repo, small_repo, is_normalised=layout != "root", max_length=6 if layout == "cut" else None)
    if layout == "folder":
        _in_folder(repo, "0_StaticEmbedding")
    if layout == "model2vec":
        _as_model2vec(repo)
    model = resolve(Entry(repo_id="acme/static"), hub=hub)

    _exported(model, hub, tmp_path / "stage")

    expected = _library(repo)(TEXTS)
    assert np.abs(expected[:2]).max() > 0.1
    assert not expected[2].any()
    np.testing.assert_allclose(_bundle(tmp_path / "stage")(TEXTS), expected, atol=2e-6)
    # The library itself runs no graph for it: it finds its own table in the bundle.
    np.testing.assert_array_equal(_library(tmp_path / "stage")(TEXTS), expected)


def test_a_bundle_of_a_repo_that_was_laid_out_is_a_stage_again(
    hub: Hub, hub_server: HubServer, small_repo: Path, tmp_path: Path
) -> None:
    repo = _static(hub_server.repos.root / "acme" / "static", small_repo)
    _in_folder(repo, "0_StaticEmbedding")
    model = resolve(Entry(repo_id="acme/static"), hub=hub)
    source = _exported(model, hub, tmp_path / "stage")
    sealed = seal.seal(Stage.open(tmp_path / "stage"), provenance=PROVENANCE, created_at=NOW)
    assert {file.path for file in sealed.source.files} == {file.path for file in model.sources.values()}

    item = restored_stage.write(tmp_path / "stage", sealed, trust=Trust()).item

    assert (item.model.folder, item.model.made) == (model.folder, model.made)
    assert download(item.model, hub=hub) == source


def test_what_a_table_is_not_is_said(hub: Hub, hub_server: HubServer, small_repo: Path) -> None:
    repo = _static(hub_server.repos.root / "acme" / "static", small_repo)
    with pytest.raises(ExportUnsupported, match=r"a StaticEmbedding of sentence-transformers, which task: fill-mask"):
        resolve(Entry(repo_id="acme/static", task="fill-mask"), hub=hub)
    save_file({"weights": torch.zeros(300)}, repo / "model.safetensors")
    with pytest.raises(ModelInvalid, match=r"model\.safetensors has no table named embedding\.weight or embeddings"):
        download(resolve(Entry(repo_id="acme/static"), hub=hub), hub=hub)


def test_files_stand_at_the_root_that_lie_in_the_models_folder() -> None:
    paths = ["0_T/config.json", "0_T/onnx/a.onnx", "1_P/config.json", "config.json", "README.md", "0_T/README.md"]
    assert laid_out(paths, folder="0_T") == {
        "config.json": "0_T/config.json",
        "onnx/a.onnx": "0_T/onnx/a.onnx",
        "1_P/config.json": "1_P/config.json",
        "README.md": "README.md",
    }
    assert laid_out(paths, folder="") == {path: path for path in paths}
