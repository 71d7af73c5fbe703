"""tokenizer.onnx: what onnxruntime alone makes of a text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_extensions
import pytest
from tokenizers import Tokenizer

from fixtures import tokenizers as made
from onnx_fleet.source.tokenizers import conversion, onnx_graph
from onnx_fleet.source.tokenizers.onnx_graph import FILE_NAME, TokenizerGraph


@pytest.fixture
def bert(small_repo: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(small_repo / name, folder / name)
    return folder


def converted(make: Callable[[Path], Path], folder: Path) -> Path:
    from transformers import AutoTokenizer

    repo = make(folder)
    assert conversion.write(AutoTokenizer.from_pretrained(repo), repo / "tokenizer.json") == ""
    return repo


def encode(stage: Path, *texts: str) -> tuple[list[list[int]], list[list[int]]]:
    """Input ids and mask, from onnxruntime with the extensions' library and nothing else."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    session = onnxruntime.InferenceSession((stage / FILE_NAME).read_bytes(), options)
    ids, mask, types = session.run(
        ["input_ids", "attention_mask", "token_type_ids"], {"text": np.array(texts, dtype=object)}
    )
    assert ids.shape == mask.shape == types.shape
    assert not types.any()
    return ids.tolist(), mask.tolist()


def test_a_wordpiece_graph_is_exact_and_pads_a_batch(bert: Path) -> None:
    found = onnx_graph.write(bert)

    assert (found.path, found.reason) == (FILE_NAME, "")
    assert found.texts > 300
    fast = Tokenizer.from_file(str(bert / "tokenizer.json"))
    first, second = "The garden [MASK] и 东京한국어がé👍", "no"
    ids, mask = encode(bert, first, second)
    wanted = [fast.encode(first).ids, fast.encode(second).ids]
    assert ids[0] == wanted[0]
    assert ids[1][: len(wanted[1])] == wanted[1]
    assert mask == [[1] * len(wanted[0]), [1] * len(wanted[1]) + [0] * (len(wanted[0]) - len(wanted[1]))]
    assert set(ids[1][len(wanted[1]) :]) == {fast.token_to_id("[PAD]")}


def test_a_byte_level_graph_keeps_the_text_behind_what_begins_like_a_special_token(tmp_path: Path) -> None:
    repo = made.gpt2(tmp_path / "gpt2")
    assert onnx_graph.write(repo).path == FILE_NAME

    fast = Tokenizer.from_file(str(repo / "tokenizer.json"))
    for text in ("l<6", "a <|b", "a<|endoftext|>b"):
        assert encode(repo, text)[0] == [fast.encode(text).ids]


def test_padding_is_on_the_side_that_the_tokenizer_says(tmp_path: Path) -> None:
    repo = made.gpt2(tmp_path / "gpt2")
    settings = json.loads((repo / "tokenizer_config.json").read_text())
    (repo / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    onnx_graph.write(repo)

    _, mask = encode(repo, "the garden is here", "a")
    assert mask[1] == [0] * (len(mask[1]) - 1) + [1]


def test_a_sentencepiece_graph_is_exact(tmp_path: Path) -> None:
    repo = converted(made.t5, tmp_path / "t5")
    found = onnx_graph.write(repo)

    assert found.path == FILE_NAME
    fast = Tokenizer.from_file(str(repo / "tokenizer.json"))
    text = "the garden <extra_id_3> of </s> delight"
    assert encode(repo, text)[0] == [fast.encode(text).ids]


def test_a_graph_that_is_not_exact_is_not_written_and_the_text_is_named(bert: Path) -> None:
    """Words of more than five letters are unknown to this tokenizer; the op has no such limit to set."""
    data = json.loads((bert / "tokenizer.json").read_text())
    data["model"]["max_input_chars_per_word"] = 5
    (bert / "tokenizer.json").write_text(json.dumps(data))
    found = onnx_graph.write(bert)

    assert found.path is None
    assert "becomes" in found.reason
    assert "by tokenizer.json" in found.reason
    assert not (bert / FILE_NAME).exists()


def test_a_tokenizer_that_no_op_knows_is_said_to_be_so(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert onnx_graph.write(nothing) == TokenizerGraph(path=None, texts=0, reason="there is no tokenizer.json")
    letters = onnx_graph.write(converted(made.ctc, tmp_path / "ctc"))
    assert letters.reason == "onnxruntime-extensions has no op for this kind of tokenizer"


def test_the_graph_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    repo = made.gpt2(tmp_path / "gpt2")
    onnx_graph.write(repo)
    first = (repo / FILE_NAME).read_bytes()
    onnx_graph.write(repo)
    assert (repo / FILE_NAME).read_bytes() == first


def test_without_the_extensions_the_way_to_have_them_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime_extensions", None)
    found = onnx_graph.write(made.gpt2(tmp_path / "gpt2"))
    assert (found.path, "pip install onnxruntime-extensions" in found.reason) == (None, True)
