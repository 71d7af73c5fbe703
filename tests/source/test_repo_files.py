"""Which of a repo's files an export needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from onnx_fleet.conventions import sentence_modules, vocabulary
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.errors import ModelInvalid, UnsafeModel
from onnx_fleet.source.repo_files import Permits, needed, require_inputs

COMMIT = "3f2a1c0" + "0" * 33
TRANSFORMER = "sentence_transformers.models.Transformer"


def _needed(
    *paths: str,
    pickle: bool = False,
    remote_code: bool = False,
    variant: str | None = None,
    index: Mapping[str, object] | None = None,
    modules: Sequence[str] = (),
) -> set[str]:
    """What is needed of a repo with these files, whose index is this."""
    permits = Permits(commit=COMMIT, pickle=pickle, remote_code=remote_code)
    listed = [{"type": f"sentence_transformers.models.{path.rpartition('_')[2]}", "path": path} for path in modules]
    parsed = sentence_modules.parse([{"type": TRANSFORMER}, *listed], subject="acme/tiny") if modules else ()
    found = needed(
        paths,
        permits=permits,
        read=lambda _: index or {},
        subject="acme/tiny@3f2a1c0",
        variant=variant,
        modules=parsed,
    )
    return set(found)


def _index(*names: str) -> dict[str, object]:
    return {"metadata": {}, "weight_map": {f"layer.{number}": name for number, name in enumerate(names)}}


BASE = ("config.json", "tokenizer.json")


def test_other_frameworks_and_formats_stay_away() -> None:
    others = (
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "openvino/openvino_model.bin",
        "model.gguf",
        "modeling.py",
        ".gitattributes",
        "training_args.bin",
        "runs/events.out",
        "checkpoint-500/model.safetensors",
    )
    assert _needed(*BASE, "model.safetensors", *others) == {*BASE, "model.safetensors"}


def test_everything_that_makes_inputs_and_describes_the_model_comes() -> None:
    wanted = (
        *BASE,
        "model.safetensors",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "bpe.codes",
        "spiece.model",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
        "source.spm",
        "target.spm",
        "target_vocab.json",
        "prophetnet.tokenizer",
        "word_shape.json",
        "word_pronunciation.json",
        "emoji.json",
        "entity_vocab.json",
        "vocab-src.json",
        "vocab-tgt.json",
        "dict.txt",
        "byte_maps.json",
        "tokenizer.4.0.0.json",
        "normalizer.json",
        "video_preprocessor_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "LICENSE",
        "LICENSE.txt",
        "README.md",
    )
    assert _needed(*wanted) == set(wanted)


def test_sentence_transformers_modules_come_with_their_weights() -> None:
    """modules.json says which folders they are, whatever those are called."""
    files = (
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "head/last_Dense/config.json",
        "head/last_Dense/model.safetensors",
    )
    others = ("head/last_Dense/pytorch_model.bin", "head/last_Dense/notes.txt", "2_Dense/config.json")
    modules = ("1_Pooling", "head/last_Dense", "3_Normalize")
    found = _needed(*BASE, "model.safetensors", *files, *others, modules=modules)
    assert found == {*BASE, "model.safetensors", *files}
    assert _needed(*BASE, "model.safetensors", "1_Pooling/config.json") == {*BASE, "model.safetensors"}


def test_a_module_with_pickle_alone_is_refused() -> None:
    paths = (*BASE, "model.safetensors", "modules.json", "2_Dense/config.json", "2_Dense/pytorch_model.bin")
    with pytest.raises(UnsafeModel, match=rf"2_Dense has its weights only as pickle.*allow_pickle: {COMMIT}"):
        _needed(*paths, modules=("2_Dense",))
    assert "2_Dense/pytorch_model.bin" in _needed(*paths, pickle=True, modules=("2_Dense",))


def test_a_module_without_its_weights_is_named() -> None:
    paths = (*BASE, "model.safetensors", "modules.json", "2_Dense/config.json")
    with pytest.raises(ModelInvalid, match=r"Dense \(2_Dense\) has no weights: 2_Dense/model\.safetensors is missing"):
        _needed(*paths, modules=("2_Dense",))


def test_one_set_of_weights_comes() -> None:
    shards = tuple(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    index = "model.safetensors.index.json"
    assert _needed(*BASE, index, *shards, "pytorch_model.bin", index=_index(*shards)) == {*BASE, index, *shards}
    assert _needed(*BASE, index, *shards, "model.safetensors") == {*BASE, "model.safetensors"}
    pickled = ("pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json")
    found = _needed(*BASE, *pickled, "training_args.bin", pickle=True, index=_index(pickled[0]))
    assert found == {*BASE, *pickled}


@pytest.mark.parametrize(
    "shards",
    [
        ("model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"),
        ("model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"),
        ("pytorch_model-00001-of-00002.safetensors", "pytorch_model-00002-of-00002.safetensors"),
        ("language.safetensors", "vision/tower.safetensors"),
        ("all-of-it.safetensors",),
    ],
    ids="-".join,
)
def test_the_files_of_the_weights_are_those_that_the_index_names(shards: tuple[str, ...]) -> None:
    index = "model.safetensors.index.json"
    stale = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
    assert _needed(*BASE, index, *shards, *stale, index=_index(*shards, *shards)) == {*BASE, index, *shards}


def test_files_that_the_index_names_and_the_repo_lacks_are_named() -> None:
    index = "model.safetensors.index.json"
    there, gone = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    with pytest.raises(
        ModelInvalid, match=r"missing that model\..*index\.json names: model-00002-of-00002\.safetensors;"
    ):
        _needed(*BASE, index, there, index=_index(there, gone))
    many = tuple(f"model-{number:05}-of-00163.safetensors" for number in range(1, 164))
    with pytest.raises(ModelInvalid, match=r"model-00005-of-00163\.safetensors and 158 more; name a revision"):
        _needed(*BASE, index, index=_index(*many))


@pytest.mark.parametrize("found", [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}], ids=str)
def test_an_index_that_names_nothing_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(ModelInvalid, match=r"model\.safetensors\.index\.json names no files of weights"):
        _needed(*BASE, "model.safetensors.index.json", index=found)


def test_an_index_of_safetensors_brings_no_pickle_and_no_file_from_elsewhere() -> None:
    index = "model.safetensors.index.json"
    with pytest.raises(UnsafeModel, match=r"names files that are no \.safetensors: weights\.bin"):
        _needed(*BASE, index, "weights.bin", index=_index("weights.bin"), pickle=True)
    with pytest.raises(UnsafeModel, match="could leave its folder"):
        _needed(*BASE, index, index=_index("../secret.safetensors"))


def test_a_variant_of_the_weights_comes_where_the_entry_names_it() -> None:
    half, index = "model.fp16.safetensors", "model.safetensors.index.fp16.json"
    shards = ("model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors")
    assert _needed(*BASE, half, "model.safetensors", variant="fp16") == {*BASE, half}
    assert _needed(*BASE, half, "model.safetensors") == {*BASE, "model.safetensors"}
    assert _needed(*BASE, index, *shards, variant="fp16", index=_index(*shards)) == {*BASE, index, *shards}
    assert _needed(*BASE, "pytorch_model.fp16.bin", variant="fp16", pickle=True) == {*BASE, "pytorch_model.fp16.bin"}


@pytest.mark.parametrize(
    "only", ["model.fp16.safetensors", "model.safetensors.index.fp16.json"], ids=["one file", "several"]
)
def test_a_repo_with_a_variant_alone_says_so_and_names_the_option(only: str) -> None:
    message = r"no plain weights, only the variant fp16; write weights_variant: fp16 in its entry"
    with pytest.raises(ModelInvalid, match=message):
        _needed(*BASE, only, "model.fp16-00001-of-00001.safetensors")
    with pytest.raises(ModelInvalid, match="no bf16 weights, only the variant fp16"):
        _needed(*BASE, only, variant="bf16")


def test_weights_of_no_use_are_named() -> None:
    with pytest.raises(ModelInvalid, match=r"no weights: neither .*; found only \.gguf, \.h5$"):
        _needed(*BASE, "model.gguf", "tf_model.h5")
    with pytest.raises(ModelInvalid, match=r"no weights that transformers loads among best\.ckpt"):
        _needed(*BASE, "best.ckpt", pickle=True)


def test_code_comes_only_when_it_is_trusted() -> None:
    paths = (*BASE, "model.safetensors", "modeling_acme.py", "acme/layers.py")
    assert _needed(*paths, remote_code=True) == set(paths)
    assert _needed(*paths) == {*BASE, "model.safetensors"}


@pytest.mark.parametrize(
    ("task", "paths"),
    [
        ("text-classification", BASE),
        ("translation", ("config.json", "source.spm", "target.spm")),
        ("translation", ("config.json", "vocab-src.json", "vocab-tgt.json", "merges.txt")),
        ("summarization", ("config.json", "prophetnet.tokenizer")),
        ("text2text-generation", ("config.json", "byte_maps.json")),
        ("image-classification", ("config.json", "preprocessor_config.json")),
        ("image-classification", ("config.json", "processor_config.json")),
        ("audio-classification", ("config.json", "preprocessor_config.json")),
        ("automatic-speech-recognition", ("config.json", "preprocessor_config.json", "vocab.json")),
        ("zero-shot-image-classification", ("config.json", "preprocessor_config.json", "tokenizer.json")),
    ],
)
def test_a_repo_with_what_its_task_takes_is_enough(task: str, paths: tuple[str, ...]) -> None:
    require_inputs(paths, task=TASKS[task], subject="acme/tiny")


def test_files_come_that_the_repos_own_tokenizer_names_where_its_code_is_trusted() -> None:
    paths = (*BASE, "model.safetensors", "acme.vocab", "letters.bin.txt", "vocab_of_acme.txt", "tokenization_acme.py")
    named = ("acme.vocab", "not-there.txt")
    permits = Permits(commit=COMMIT, remote_code=True)
    found = needed(paths, permits=permits, read=lambda _: {}, subject="acme/tiny@3f2a1c0", vocabularies=named)

    assert set(found) == {*BASE, "model.safetensors", "acme.vocab", "vocab_of_acme.txt", "tokenization_acme.py"}
    assert _needed(*paths) == {*BASE, "model.safetensors"}


@pytest.mark.parametrize(
    ("task", "paths", "missing"),
    [
        ("text-generation", ("config.json", "merges.txt", "emoji.json", "tokenizer_config.json"), "tokenizer"),
        ("image-classification", BASE, "preprocessor"),
        ("automatic-speech-recognition", ("config.json", "preprocessor_config.json"), "tokenizer"),
        ("automatic-speech-recognition", ("config.json", "vocab.json"), "preprocessor"),
        ("zero-shot-image-classification", BASE, "preprocessor"),
    ],
)
def test_what_a_task_takes_and_the_repo_lacks_is_named(task: str, paths: tuple[str, ...], missing: str) -> None:
    with pytest.raises(
        ModelInvalid, match=f"^acme/tiny: no {missing}: none of .*; {task} (needs one|takes text): name a"
    ):
        require_inputs(paths, task=TASKS[task], subject="acme/tiny")


def test_a_class_is_asked_for_its_own_vocabulary() -> None:
    """GPT-2's class reads no vocab.txt: with that alone it makes nothing of any text."""
    gpt2 = vocabulary.tokenizer_class(None, model_type="gpt2")
    paths = ("config.json", "vocab.txt", "merges.txt")
    with pytest.raises(
        ModelInvalid, match=r"none of vocab\.json, merges\.txt, which GPT2Tokenizer reads.*tokenizer: none"
    ):
        require_inputs(paths, task=TASKS["text-generation"], subject="acme/tiny", reader=gpt2)
    require_inputs(paths, task=TASKS["text-generation"], subject="acme/tiny", reader=gpt2, tokenizer="none")
    require_inputs(("config.json", "vocab.json"), task=TASKS["text-generation"], subject="acme/tiny", reader=gpt2)


def test_a_tokenizer_as_published_has_to_be_published() -> None:
    with pytest.raises(ModelInvalid, match=r"as-published, and the repo has no tokenizer\.json"):
        require_inputs(("vocab.txt",), task=TASKS["fill-mask"], subject="acme/tiny", tokenizer="as-published")
    require_inputs(BASE, task=TASKS["fill-mask"], subject="acme/tiny", tokenizer="as-published")
