"""Packing a tokenizer for every consumer, and holding it to the source's."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from fixtures import tokenizers as made
from fixtures.items import work_item
from onnx_fleet.bundles.model_config import complete_config
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import TokenizerForm
from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.errors import ModelInvalid
from onnx_fleet.source.tokenizers import pack as tokenizer_pack
from onnx_fleet.source.tokenizers import proof as tokenizer_proof
from onnx_fleet.source.tokenizers.pack import Packed
from onnx_fleet.source.tokenizers.proof import CORPUS


@pytest.fixture
def source(small_repo: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "acme" / "source"
    shutil.copytree(small_repo, folder)
    return folder


def pack(source: Path, stage: Path, *, task: str = "text-classification", form: TokenizerForm = "exact") -> Packed:
    item = work_item(source, task=task)
    model = replace(item.model, entry=replace(item.model.entry, tokenizer=form))
    return tokenizer_pack.pack(Stage(stage, replace(item, model=model)), source_dir=source)


@pytest.fixture
def cased(source: Path) -> Path:
    """tokenizer.json keeps capitals, and the class that transformers builds lowers them."""
    settings = json.loads((source / "tokenizer_config.json").read_text())
    data = json.loads((source / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                          "strip_accents": None, "lowercase": False}  # fmt: skip
    (source / "tokenizer.json").write_text(json.dumps(data))
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": True}))
    return source


def a_graph(*names: str) -> GraphInfo:
    inputs = (TensorSpec(name=name, dtype="int64", shape=("batch_size", "sequence_length")) for name in names)
    return GraphInfo(
        role="model", variant="fp32", path="onnx/model.onnx", opset=20, ir_version=10, inputs=tuple(inputs), outputs=(),
        weight_files=(), onnxruntime_min="1.18",
    )  # fmt: skip


def test_the_sources_own_files_are_packed_byte_for_byte_and_no_weights(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "stage").files

    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} <= set(packed)
    assert "model.safetensors" not in packed
    for path in set(packed) - {"reports/tokenizer.json"}:
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

    packed = pack(source, tmp_path / "stage")
    assert packed.proof is not None
    assert packed.proof.differences == ()
    assert (tmp_path / "stage/tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_a_tokenizer_that_encodes_differently_from_the_sources_is_refused_with_both_encodings(
    cased: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelInvalid, match=r"tokenizer\.json differs") as raised:
        pack(cased, tmp_path / "stage")

    said = str(raised.value)
    assert "encoding of 'A quick brown fox jumps over the lazy dog.': the file gives [2 '[CLS]', 1 '[UNK]', " in said
    assert "the class [2 '[CLS]', " in said
    assert "give the entry tokenizer: as-published" in said


def test_a_tokenizer_as_published_is_packed_whatever_its_class_makes_of_it(cased: Path, tmp_path: Path) -> None:
    packed = pack(cased, tmp_path / "stage", form="as-published")

    assert (tmp_path / "stage/tokenizer.json").read_bytes() == (cased / "tokenizer.json").read_bytes()
    assert packed.proof is not None
    assert any(each.grave for each in packed.proof.differences)
    (fallback,) = tokenizer_pack.not_exact(packed)
    assert fallback.what == "tokenizer: exact -> as published"
    assert re.search(r"BertTokenizer: tokenizer\.json differs .* in \d+ of 42 comparisons", fallback.why)
    report = json.loads((tmp_path / "stage/reports/tokenizer.json").read_text())
    assert report["form"] == "as-published"
    assert "[UNK]" in report["proof"]["differences"][0]["found_tokens"]


def test_a_tokenizer_as_published_needs_no_class_that_can_be_loaded(source: Path, tmp_path: Path) -> None:
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "TapasTokenizer"}))
    with pytest.raises(ModelInvalid, match="its tokenizer cannot be loaded"):
        pack(source, tmp_path / "exact")

    packed = pack(source, tmp_path / "stage", form="as-published")
    assert packed.proof is None
    (fallback,) = tokenizer_pack.not_exact(packed)
    assert "its tokenizer cannot be loaded" in fallback.why


def test_a_tokenizer_as_published_that_its_class_agrees_with_is_nothing_to_speak_of(
    source: Path, tmp_path: Path
) -> None:
    assert tokenizer_pack.not_exact(pack(source, tmp_path / "stage", form="as-published")) == ()


def test_the_published_file_reads_texts_in_the_proof(cased: Path) -> None:
    """Beside the file itself: whatever transformers adds to it around its settings would be seen."""
    model = work_item(cased, task="fill-mask").model
    own = tokenizer_pack.load(replace(model, entry=replace(model.entry, tokenizer="as-published")), cased)

    proof = tokenizer_proof.prove(cased / "tokenizer.json", own, own_file=True)
    assert proof.differences == ()
    assert own.mask_token == "[MASK]"
    assert own.model_max_length == json.loads((cased / "tokenizer_config.json").read_text())["model_max_length"]


def test_a_bundle_without_a_tokenizer_is_what_an_entry_may_ask_for(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "stage", form="none")

    assert packed.tokenizer_json == "none"
    assert "tokenizer.json" not in packed.files
    assert {"vocab.txt", "tokenizer_config.json"} <= set(packed.files)
    (fallback,) = tokenizer_pack.not_exact(packed)
    assert (fallback.what, fallback.why) == ("tokenizer.json -> none", "the entry says tokenizer: none")


@pytest.mark.parametrize("name", ["ByT5Tokenizer", "PerceiverTokenizer"])
def test_bytes_become_a_tokenizer_without_any_file(tmp_path: Path, name: str) -> None:
    repo = made.of_class(tmp_path / "acme" / "bytes", name)
    packed = pack(repo, tmp_path / "stage", task="translation")

    assert packed.tokenizer_json == "converted"
    assert packed.proof is not None
    assert packed.proof.differences == ()
    fast = Tokenizer.from_file(str(tmp_path / "stage/tokenizer.json"))
    source = AutoTokenizer.from_pretrained(repo)
    cut = source("Straße 東京")["input_ids"]
    for ids in (cut[:6], cut[6:], [*cut[:-3], *cut]):  # bytes of no character, as a model may write them
        assert fast.decode(ids) == source.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["RoCBertTokenizer", "ProphetNetTokenizer", "EsmTokenizer", "BertTokenizerLegacy"])
@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False, "tokenize_chinese_chars": False}])
def test_classes_that_run_in_python_become_exact_tokenizers_where_they_do_nothing_new(
    tmp_path: Path, name: str, settings: dict[str, object]
) -> None:
    packed = pack(made.of_class(tmp_path / "acme" / "python", name, **settings), tmp_path / "stage", task="fill-mask")

    assert packed.tokenizer_json == "converted"
    assert packed.proof is not None
    assert packed.proof.differences == ()
    assert packed.tokenizer_class == name


def test_a_class_that_nothing_but_python_can_run_is_named_with_what_to_do(tmp_path: Path) -> None:
    repo = made.of_class(tmp_path / "acme" / "canine", "CanineTokenizer")
    with pytest.raises(ModelInvalid, match=r"its CanineTokenizer runs in Python.*tokenizer: none"):
        pack(repo, tmp_path / "stage")


def test_a_class_without_its_vocabulary_makes_nothing_of_any_text(tmp_path: Path) -> None:
    repo = made.gpt2(tmp_path / "acme" / "gpt2")
    (repo / "tokenizer.json").unlink()
    with pytest.raises(ModelInvalid, match=r"none of vocab\.json, merges\.txt, which GPT2Tokenizer reads"):
        pack(repo, tmp_path / "missing", task="text-generation")
    (repo / "vocab.json").write_text("{}")
    (repo / "merges.txt").write_text("")
    with pytest.raises(ModelInvalid, match=r"its GPT2Tokenizer makes no token of any text.*tokenizer: none"):
        pack(repo, tmp_path / "empty", task="text-generation")


def test_a_tokenizer_that_cannot_be_loaded_is_named(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelInvalid, match="its tokenizer cannot be loaded"):
        pack(source, tmp_path / "stage")


def test_how_the_tokenizer_was_proven_is_reported_in_the_bundle(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "stage")

    report = json.loads((tmp_path / "stage/reports/tokenizer.json").read_text())
    assert report["tokenizer_json"] == "source"
    assert report["tokenizer_class"] == "BertTokenizer"
    assert report["proof"] == {"texts": len(CORPUS), "pairs": 3, "differences": []}
    assert packed.proof is not None


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_tokenizer_class_of_no_model_is_said_where_a_graph_takes_token_types(
    source: Path, tmp_path: Path, name: str
) -> None:
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": name}))
    pack(source, tmp_path / "stage")

    (fallback,) = tokenizer_pack.lost_token_types(tmp_path / "stage", [a_graph("input_ids", "token_type_ids")])

    assert fallback.what == "token types in transformers.js -> none"
    assert name in fallback.why
    assert "return_token_type_ids: true" in fallback.why
    assert tokenizer_pack.lost_token_types(tmp_path / "stage", [a_graph("input_ids", "attention_mask")]) == ()


def test_a_tokenizer_of_the_models_own_class_loses_no_token_types(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "stage")

    assert tokenizer_pack.lost_token_types(tmp_path / "stage", [a_graph("input_ids", "token_type_ids")]) == ()


def test_a_sentencepiece_model_becomes_a_tokenizer_that_encodes_and_decodes_alike(tmp_path: Path) -> None:
    repo = made.t5(tmp_path / "acme" / "t5")
    packed = pack(repo, tmp_path / "stage", task="translation")

    assert packed.tokenizer_json == "converted"
    assert packed.proof is not None
    assert packed.proof.differences == ()
    assert (tmp_path / "stage/spiece.model").read_bytes() == (repo / "spiece.model").read_bytes()
    fast = Tokenizer.from_file(str(tmp_path / "stage/tokenizer.json"))
    assert fast.decode(fast.encode("the garden").ids) == "the garden"


def test_a_translator_with_two_languages_gets_a_tokenizer_that_finds_only_the_source_languages_pieces(
    tmp_path: Path,
) -> None:
    repo = made.marian(tmp_path / "acme" / "marian")
    packed = pack(repo, tmp_path / "stage", task="translation")

    assert packed.tokenizer_json == "converted"
    assert packed.proof is not None
    assert [each for each in packed.proof.differences if each.grave] == []
    fast = Tokenizer.from_file(str(tmp_path / "stage/tokenizer.json"))
    ids = json.loads((repo / "vocab.json").read_text())
    garten = [piece for piece in ids if piece.startswith("▁G")]
    assert garten, "the target language has pieces that start a word"
    assert fast.decode([ids[garten[0]]]) == garten[0].removeprefix("▁")
    assert {"source.spm", "target.spm", "vocab.json"} <= set(packed.files)


def test_a_ctc_tokenizer_joins_repeats_and_drops_blanks_as_the_sources_does(tmp_path: Path) -> None:
    packed = pack(made.ctc(tmp_path / "acme" / "ctc"), tmp_path / "stage", task="automatic-speech-recognition")

    assert packed.tokenizer_json == "converted"
    assert packed.proof is not None
    assert packed.proof.differences == ()
    fast = Tokenizer.from_file(str(tmp_path / "stage/tokenizer.json"))
    ids = [0 if letter == "_" else 4 + made.LETTERS.index(letter) for letter in "__HHEE_LL_LLO||_|WWORLD|_|"]
    for skip in (True, False):
        assert fast.decode(ids, skip_special_tokens=skip) == "HELLO  WORLD"


def test_a_ctc_tokenizer_without_an_exact_fast_form_has_none_and_says_why(tmp_path: Path) -> None:
    repo = made.ctc(tmp_path / "acme" / "ctc", do_lower_case=True)
    packed = pack(repo, tmp_path / "stage", task="automatic-speech-recognition")

    assert packed.tokenizer_json == "none"
    assert "differs from the source's tokenizer" in packed.reason
    assert "vocab.json" in packed.files
    assert "tokenizer.json" not in packed.files


def test_a_model_of_sounds_or_images_is_packed_without_a_tokenizer(source: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (source / name).unlink()
    (source / "preprocessor_config.json").write_text('{"do_normalize": true}')

    for task in ("image-classification", "audio-classification"):
        packed = pack(source, tmp_path / task, task=task)
        assert packed.tokenizer_json == "none"
        assert packed.reason == f"{task} takes no text, and the source has no tokenizer"
        assert "preprocessor_config.json" in packed.files
    with pytest.raises(ModelInvalid, match="which BertTokenizer reads; text-classification takes text"):
        pack(source, tmp_path / "text")


def test_a_processor_in_one_file_is_split_for_consumers_that_read_the_preprocessor_alone(
    source: Path, tmp_path: Path
) -> None:
    image = {"image_processor_type": "ViTImageProcessor", "size": {"height": 30, "width": 30}}
    (source / "processor_config.json").write_text(json.dumps({"processor_class": "P", "image_processor": image}))
    pack(source, tmp_path / "stage", task="image-classification")

    made_config = json.loads((tmp_path / "stage/preprocessor_config.json").read_text())
    assert made_config == {"processor_class": "P", **image}


def test_a_difference_that_transformers_itself_makes_around_special_tokens_is_kept_in_the_proof(tmp_path: Path) -> None:
    packed = pack(made.llama_2(tmp_path / "acme" / "llama"), tmp_path / "stage", task="text-generation")

    assert packed.proof is not None
    assert packed.proof.differences
    assert not any(each.grave for each in packed.proof.differences)
    texts = {each.text for each in packed.proof.differences}
    assert texts == {
        "[CLS] special [SEP] tokens <s> in text </s> [MASK] <mask>",
        "<|endoftext|>a<pad>b<unk>c<extra_id_0>",
    }


def test_chat_templates_are_packed(source: Path, tmp_path: Path) -> None:
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/tool_use.jinja").write_text("{{ messages }}")
    (source / "chat_template.jinja").write_text("{{ messages }}")

    assert {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"} <= set(
        pack(source, tmp_path / "stage").files
    )


def config_of(stage: Path, **config: object) -> Path:
    stage.mkdir(parents=True)
    (stage / "config.json").write_text(json.dumps(config))
    return stage


def test_a_config_says_where_the_browser_finds_external_data_and_keeps_the_rest(tmp_path: Path) -> None:
    stage = config_of(tmp_path / "stage", zeta=1, alpha=[1.0], **{"transformers.js_config": {"kept": True}})
    complete_config(stage, external_data={"encoder_model.onnx": 1})

    found = json.loads((stage / "config.json").read_text())
    external = {"encoder_model.onnx": 1}
    assert list(found.items()) == [
        ("zeta", 1),
        ("alpha", [1.0]),
        ("transformers.js_config", {"kept": True, "use_external_data_format": external}),
    ]
    complete_config(stage, external_data={})
    assert json.loads((stage / "config.json").read_text())["transformers.js_config"] == {"kept": True}


def test_a_config_that_says_all_is_left_byte_for_byte(tmp_path: Path) -> None:
    stage = config_of(tmp_path / "stage", model_type="bert")
    before = (stage / "config.json").read_bytes()
    complete_config(stage, external_data={})
    assert (stage / "config.json").read_bytes() == before


def test_a_t5_config_says_how_many_layers_its_decoder_has(tmp_path: Path) -> None:
    t5 = config_of(tmp_path / "t5", model_type="t5", is_encoder_decoder=True, num_layers=6)
    complete_config(t5, external_data={})
    assert json.loads((t5 / "config.json").read_text())["num_decoder_layers"] == 6
    own = config_of(tmp_path / "own", is_encoder_decoder=True, num_layers=6, num_decoder_layers=2)
    complete_config(own, external_data={})
    assert json.loads((own / "config.json").read_text())["num_decoder_layers"] == 2


@pytest.mark.parametrize(
    ("name", "model_type"), [("LayoutLMv3Tokenizer", "layoutlmv3"), ("MarkupLMTokenizer", "markuplm")]
)
def test_a_tokenizer_that_takes_words_is_held_to_what_it_makes_of_a_texts_words(
    name: str, model_type: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    source = made.of_words(tmp_path / "acme" / "forms", name, model_type=model_type)

    packed = pack(source, tmp_path / "stage", task="token-classification")

    assert packed.tokenizer_class == name
    assert packed.proof is not None
    assert packed.proof.pairs > 0
    assert not [each for each in packed.proof.differences if each.what in ("encoding", "pair")]
    words = ["Invoice", "No.", "4711"]
    places = {"boxes": [[1, 2, 3, 4]] * 3} if model_type == "layoutlmv3" else {"xpaths": ["/html/body/div"] * 3}
    own = AutoTokenizer.from_pretrained(source)(words, **places)["input_ids"]
    assert Tokenizer.from_file(str(tmp_path / "stage/tokenizer.json")).encode(words, is_pretokenized=True).ids == own


def test_a_tokenizer_of_words_and_wordpiece_is_proven_too(small_repo: Path, tmp_path: Path) -> None:
    source = made.of_words_in_wordpiece(tmp_path / "acme" / "scans", vocabulary=small_repo / "vocab.txt")

    packed = pack(source, tmp_path / "stage", task="token-classification")

    assert packed.tokenizer_class == "LayoutLMv2Tokenizer"
    assert packed.proof is not None
    assert packed.proof.differences == ()


def test_a_packed_tokenizer_that_joins_words_otherwise_is_refused(tmp_path: Path) -> None:
    source = made.of_words(tmp_path / "acme" / "forms", "LayoutLMv3Tokenizer", model_type="layoutlmv3")
    pack(source, tmp_path / "right", task="token-classification")
    broken = json.loads((tmp_path / "right/tokenizer.json").read_text())
    broken["model"]["merges"] = broken["model"]["merges"][:5]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    model = work_item(source, task="token-classification").model

    proof = tokenizer_proof.prove(tmp_path / "broken.json", tokenizer_pack.load(model, source), own_file=True)

    with pytest.raises(ModelInvalid, match="differs from the source's tokenizer"):
        tokenizer_proof.require(proof, subject="acme/forms", own_file=True)
