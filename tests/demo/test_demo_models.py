"""The demo fleet's repos."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from onnx_fleet_demo import models


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    made = (models.CLASSIFIER, models.FILL_MASK)
    for name in ("one", "two"):
        models.make_repos(tmp_path / name, repo_ids=made)
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")


def test_a_second_call_keeps_what_is_there(tmp_path: Path) -> None:
    models.make_repos(tmp_path, repo_ids=(models.CLASSIFIER,))
    card = tmp_path / models.CLASSIFIER / "README.md"
    card.write_text("mine")
    models.make_repos(tmp_path, repo_ids=(models.CLASSIFIER,))
    assert card.read_text() == "mine"


def test_a_repo_of_another_format_is_made_anew(tmp_path: Path) -> None:
    models.make_repos(tmp_path, repo_ids=(models.CLASSIFIER,))
    folder = tmp_path / models.CLASSIFIER
    (folder / "README.md").write_text("old")
    folder.with_name(f"{folder.name}.made").write_text("0")
    models.make_repos(tmp_path, repo_ids=(models.CLASSIFIER,))
    assert (folder / "README.md").read_text() != "old"


def test_minilm_is_the_real_model_laid_out_as_on_the_hub(demo_repos: Path) -> None:
    folder = demo_repos / models.MINILM
    modules = json.loads((folder / "modules.json").read_bytes())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert json.loads((folder / "1_Pooling/config.json").read_bytes())["pooling_mode_mean_tokens"]
    assert (folder / "model.safetensors").stat().st_size > 90_000_000
    assert "pipeline_tag: sentence-similarity" in (folder / "README.md").read_text()


def test_minilm_costs_no_disk_where_files_can_be_linked(tmp_path: Path) -> None:
    models.make_repos(tmp_path, repo_ids=(models.MINILM,))
    made = (tmp_path / models.MINILM / "model.safetensors").stat()
    package = (models.minilm_folder() / "model.safetensors").stat()
    assert made.st_ino == package.st_ino or made.st_dev != package.st_dev


@pytest.mark.parametrize("repo_id", [models.CLASSIFIER, models.FILL_MASK])
def test_tokenizers_are_trained_and_written_in_the_classic_form(demo_repos: Path, repo_id: str) -> None:
    folder = demo_repos / repo_id
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    assert settings["tokenizer_class"] in ("BertTokenizer", "DistilBertTokenizer")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = tokenizer.encode("The garden made everyone [MASK].").tokens
    assert tokens == ["[CLS]", "the", "garden", "made", "everyone", "[MASK]", ".", "[SEP]"]
    assert "##" in "".join(tokenizer.encode("gardening").tokens)
    vocabulary = (folder / "vocab.txt").read_text().splitlines()
    assert [tokenizer.id_to_token(number) for number in range(len(vocabulary))] == vocabulary


def test_outputs_have_unit_size_and_differ_by_row_position_and_mask(demo_repos: Path) -> None:
    import torch
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

    texts = ["I felt happy about the garden", "Why do they [MASK] the meeting today?", "never"]
    classes = {models.CLASSIFIER: AutoModelForSequenceClassification, models.FILL_MASK: AutoModelForMaskedLM}
    for repo_id, auto_class in classes.items():
        tokenizer = AutoTokenizer.from_pretrained(demo_repos / repo_id)
        model, loading = auto_class.from_pretrained(demo_repos / repo_id, output_loading_info=True)
        assert not any(loading.values()), loading
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits
            unmasked = model(**{**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}).logits
        assert 0.5 < float(logits.std()) < 2.0
        assert float((logits[0] - logits[1]).abs().max()) > 0.5
        assert float((logits - unmasked).abs().max()) > 0.5
        if logits.ndim == 3:
            assert float(logits[0].std(dim=0).mean()) > 0.3
