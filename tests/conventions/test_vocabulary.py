"""Which vocabulary files a tokenizer class reads, held to transformers itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from onnx_fleet.conventions import vocabulary


def test_every_class_that_transformers_maps_to_names_the_files_that_were_read_off_its_source() -> None:
    names = sorted({name for name in TOKENIZER_MAPPING_NAMES.values() if name})
    wrong, unknown = {}, set()
    for name in names:
        made = tokenizer_class_from_name(name)
        read = vocabulary.tokenizer_class(name, model_type="")
        if read is None:
            unknown.add(name)
        elif getattr(made, "vocab_files_names", None) is not None:  # a package that it needs may be missing
            named = tuple(file for file in made.vocab_files_names.values() if file != "tokenizer_config.json")
            wrong |= {name: (read.files, named)} if read.files != named else {}

    assert wrong == {}
    assert unknown <= {"BartTokenizer", "LEDTokenizer", "LxmertTokenizer", "MvpTokenizer", "RagTokenizer",
                       "MistralCommonBackend"}  # fmt: skip
    assert len(names) > 90


@pytest.mark.parametrize(
    ("model_type", "name", "files"),
    [
        ("roc_bert", None, ("vocab.txt", "word_shape.json", "word_pronunciation.json")),
        ("gpt_neox_japanese", None, ("vocab.txt", "emoji.json")),
        ("bert", "BertTokenizerFast", ("vocab.txt", "tokenizer.json")),
        ("t5", "ByT5Tokenizer", ()),
        ("canine", None, ()),
        ("bert-japanese", None, ("vocab.txt", "spiece.model")),
        ("luke", None, ("vocab.json", "merges.txt", "entity_vocab.json")),
    ],
)
def test_settings_name_the_class_and_else_the_models_type_does(
    model_type: str, name: str | None, files: tuple[str, ...]
) -> None:
    found = vocabulary.tokenizer_class(name, model_type=model_type)
    assert found is not None
    assert found.files == files


def test_a_class_that_nobody_knows_is_none() -> None:
    assert vocabulary.tokenizer_class("AcmeTokenizer", model_type="bert") is None
    assert vocabulary.tokenizer_class(None, model_type="acme") is None


def test_a_repos_own_class_is_read_without_being_run(tmp_path: Path) -> None:
    source = f"""
raise SystemExit(open({str(tmp_path / "run")!r}, "w"))
WORDS = "acme.words"
VOCAB_FILES_NAMES = {{"vocab_file": WORDS, "tones_file": "acme.tones", "ruled": any_call()}}

class AcmeTokenizer(PreTrainedTokenizer):
    vocab_files_names = VOCAB_FILES_NAMES
"""
    own = vocabulary.class_of_code("AcmeTokenizer", sources=[source])
    assert own.files == ("acme.words", "acme.tones")
    assert vocabulary.tells_ids(["config.json", "acme.words"], reader=own)
    assert not vocabulary.tells_ids(["config.json", "vocab.txt"], reader=own)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["VOCAB_FILES_NAMES = {", "VOCAB_FILES_NAMES = {'a': }", "vocab_files_names = {*a}"])
def test_code_that_is_no_code_names_nothing(text: str) -> None:
    assert vocabulary.named_in(text) == ()
