"""Packing a tokenizer for every consumer, and holding it to the source's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fixtures.items import work_item
from onnx_fleet import tokenizer
from onnx_fleet.errors import ModelInvalid


@pytest.fixture
def source(small_repo: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "acme" / "source"
    shutil.copytree(small_repo, folder)
    return folder


def pack(source: Path, stage: Path) -> tuple[str, ...]:
    return tokenizer.pack(work_item(source, task="text-classification").model, source_dir=source, stage=stage)


def test_the_sources_own_files_are_packed_byte_for_byte_and_no_weights(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "stage")

    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} <= set(packed)
    assert "model.safetensors" not in packed
    for path in packed:
        assert (tmp_path / "stage" / path).read_bytes() == (source / path).read_bytes(), path


def test_vocabulary_files_alone_become_a_fast_tokenizer(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").unlink()
    (source / "special_tokens_map.json").unlink()
    pack(source, tmp_path / "stage")

    made = Tokenizer.from_file(str(tmp_path / "stage/tokenizer.json"))
    assert made.encode("the garden").tokens == ["[CLS]", "the", "garden", "[SEP]"]
    special = json.loads((tmp_path / "stage/special_tokens_map.json").read_text())
    assert special["cls_token"] == "[CLS]"
    assert special["mask_token"] == "[MASK]"


def test_truncation_and_padding_that_the_file_bakes_in_do_not_count_as_a_difference(
    source: Path, tmp_path: Path
) -> None:
    baked = Tokenizer.from_file(str(source / "tokenizer.json"))
    baked.enable_truncation(16)
    baked.enable_padding(length=16)
    baked.save(str(source / "tokenizer.json"))

    assert "tokenizer.json" in pack(source, tmp_path / "stage")


def test_a_tokenizer_that_encodes_differently_from_the_sources_is_refused(source: Path, tmp_path: Path) -> None:
    """The two come from the same files, so they differ when transformers corrects one of them while loading."""
    settings = json.loads((source / "tokenizer_config.json").read_text())
    data = json.loads((source / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                          "strip_accents": None, "lowercase": False}  # fmt: skip
    (source / "tokenizer.json").write_text(json.dumps(data))
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": True}))

    with pytest.raises(ModelInvalid, match=r"tokenizer\.json encodes .* its files disagree"):
        pack(source, tmp_path / "stage")


def test_a_tokenizer_that_cannot_be_loaded_is_named(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelInvalid, match="its tokenizer cannot be loaded"):
        pack(source, tmp_path / "stage")
