"""What modules.json and its neighbours say of a sentence-transformers source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnx_fleet.conventions import sentence_modules
from onnx_fleet.errors import ExportUnsupported, ModelInvalid, UnsafeModel
from onnx_fleet_demo import models

ROOT = {"type": "sentence_transformers.models.Transformer", "path": ""}


def _module(kind: str, path: str) -> dict[str, str]:
    return {"type": f"sentence_transformers.sentence_transformer.modules.{kind}", "path": path}


def _parse(*modules: object, trusted: bool = False) -> list[tuple[str, str]]:
    parsed = sentence_modules.parse(list(modules), subject="acme/tiny", trusted=trusted)
    return [(module.kind, module.path) for module in parsed]


def test_old_and_new_names_of_classes_are_one_kind() -> None:
    new = {"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling", "path": "1_Pooling"}
    old = {"type": "sentence_transformers.models.Dense.Dense", "path": "2_Dense"}
    assert _parse(ROOT, new, old) == [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("Router", r"Router \(1_Router\) sends queries and documents through different modules"),
        ("Asym", r"Asym \(1_Asym\) sends queries and documents"),
        ("LSTM", r"LSTM \(1_LSTM\) packs rows by their lengths"),
        ("LogitScore", r"LogitScore \(1_LogitScore\) scores by the next token"),
        ("Transformer", r"Transformer \(1_Transformer\) is none that can be exported"),
        ("Novelty", r"Novelty \(1_Novelty\) is none that can be exported"),
    ],
)
def test_a_module_that_no_graph_can_have_is_refused_by_its_name(kind: str, why: str) -> None:
    with pytest.raises(ExportUnsupported, match=f"^acme/tiny: its module {why}"):
        _parse(ROOT, _module(kind, f"1_{kind}"))


@pytest.mark.parametrize("kind", ["WordEmbeddings", "BoW", "SparseStaticEmbedding", "CLIPModel"])
def test_a_source_without_a_transformer_is_refused_by_its_name(kind: str) -> None:
    with pytest.raises(ExportUnsupported, match=rf"^acme/tiny: its module {kind} \(0_{kind}\) "):
        _parse(_module(kind, f"0_{kind}"), _module("Normalize", "1_Normalize"))
    with pytest.raises(ExportUnsupported, match=r"begins with Pooling \(0_Pooling\) instead of a transformer"):
        _parse(_module("Pooling", "0_Pooling"))


def test_a_transformer_or_a_table_may_lie_in_a_folder_and_nothing_may_stand_before_it() -> None:
    for kind in ("Transformer", "StaticEmbedding"):
        assert _parse(_module(kind, f"0_{kind}"), _module("Normalize", "1_Normalize"))[0] == (kind, f"0_{kind}")
    with pytest.raises(ExportUnsupported, match=r"its module StaticEmbedding \(1_StaticEmbedding\) is none that"):
        _parse(ROOT, _module("StaticEmbedding", "1_StaticEmbedding"))


def test_a_dot_is_the_root() -> None:
    assert _parse({**ROOT, "path": "."}, _module("Pooling", "./1_Pooling/")) == [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
    ]


def test_a_class_of_the_repos_own_needs_trust() -> None:
    own = {"type": "custom_st.Transformer", "path": ""}
    with pytest.raises(UnsafeModel, match=r"names custom_st\.Transformer, a class of the repo's own"):
        _parse(own)
    assert _parse(own, trusted=True) == [("Transformer", "")]


@pytest.mark.parametrize("path", ["..", "a/../b", "/etc", "a\\b"])
def test_a_module_stays_in_its_repo(path: str) -> None:
    with pytest.raises(UnsafeModel, match="could leave the repo"):
        _parse(ROOT, _module("Pooling", path))


@pytest.mark.parametrize("data", [{}, [], ["Pooling"], [{"path": ""}], [{"type": "a.B", "path": 1}]])
def test_what_is_no_list_of_modules_is_refused(data: object) -> None:
    with pytest.raises(ModelInvalid, match="is not a list of modules"):
        sentence_modules.parse(data, subject="acme/tiny")


def _write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def test_a_real_models_settings_are_read() -> None:
    folder = models.minilm_folder()
    found = sentence_modules.settings(folder)

    assert [str(module) for module in sentence_modules.read(folder)] == [
        "Transformer",
        "Pooling (1_Pooling)",
        "Normalize (2_Normalize)",
    ]
    assert found is not None
    assert (found.kind, found.max_seq_length, found.do_lower_case) == ("SentenceTransformer", 256, False)


def test_prompts_dimension_and_similarity_are_read(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "model_type": "SparseEncoder",
        "prompts": {"query": "query: ", "document": None},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
        "truncate_dim": 16,
    }
    _write(tmp_path, "config_sentence_transformers.json", told)
    _write(tmp_path, "sentence_roberta_config.json", {"max_seq_length": 64, "do_lower_case": True})

    assert sentence_modules.settings(tmp_path) == sentence_modules.Settings(
        kind="SparseEncoder",
        prompts={"query": "query: ", "document": ""},
        default_prompt_name="query",
        max_seq_length=64,
        do_lower_case=True,
        similarity="dot",
        truncate_dim=16,
    )


@pytest.mark.parametrize(
    "config",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_a_classifier_with_an_activation_is_a_re_ranker(tmp_path: Path, config: dict[str, object]) -> None:
    _write(tmp_path, "config.json", config)
    found = sentence_modules.settings(tmp_path)

    assert found is not None
    assert (found.kind, found.activation) == ("CrossEncoder", "torch.nn.modules.linear.Identity")


def test_a_plain_model_has_no_settings(tmp_path: Path) -> None:
    _write(tmp_path, "config.json", {"model_type": "bert"})
    assert sentence_modules.settings(tmp_path) is None
    assert sentence_modules.read(tmp_path) == ()


def test_pickled_weights_of_a_module_are_packed_as_safetensors(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    source, stage = tmp_path / "source", tmp_path / "stage"
    weight = torch.arange(6.0).reshape(2, 3)
    (source / "2_Dense").mkdir(parents=True)
    torch.save({"linear.weight": weight}, source / "2_Dense" / "pytorch_model.bin")
    _write(source, "modules.json", [ROOT, _module("Dense", "2_Dense")])

    needed = ("2_Dense/pytorch_model.bin", "modules.json", "model.safetensors")
    sentence_modules.pack_weights(needed, source_dir=source, stage=stage)

    packed = {path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()}
    assert packed == {"2_Dense/model.safetensors"}
    assert torch.equal(load_file(stage / "2_Dense" / "model.safetensors")["linear.weight"], weight)

    (source / "2_Dense" / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(ModelInvalid, match=r"2_Dense/pytorch_model\.bin holds no tensors"):
        sentence_modules.pack_weights(needed, source_dir=source, stage=stage)
