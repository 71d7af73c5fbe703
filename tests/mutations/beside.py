"""Sound graphs with the wrong files beside them: settings, labels, vocabularies, data of somebody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from mutations.mutation import of_stage
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.graphs import description

_HEADER_BYTES = 8


def labels_swapped(stage_dir: Path) -> None:
    """The label map of another fine-tune: the right classes by the wrong names."""

    def swap(config: dict[str, Any]) -> None:
        names = list(config["id2label"].values())
        config["id2label"] = dict(zip(config["id2label"], [*names[1:], names[0]], strict=True))

    _change_json(stage_dir / "config.json", swap)


def padding_token_of_another(stage_dir: Path) -> None:
    """config.json names another padding token than the model was trained with."""
    _change_json(stage_dir / "config.json", lambda config: config.update(pad_token_id=3))


def vocabulary_of_another(stage_dir: Path) -> None:
    """Two words of the packed tokenizer have each other's ids."""

    def swap(packed: dict[str, Any]) -> None:
        vocabulary = packed["model"]["vocab"]
        for first, second in (("the", "a"), ("of", "and")):
            vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    _change_json(stage_dir / "tokenizer.json", swap)


def case_kept(stage_dir: Path) -> None:
    """The packed tokenizer does not lower letters, where the source's does."""
    _change_json(stage_dir / "tokenizer.json", lambda packed: packed["normalizer"].update(lowercase=False))


def special_tokens_not_added(stage_dir: Path) -> None:
    """The packed tokenizer puts nothing around a text."""
    _change_json(stage_dir / "tokenizer.json", lambda packed: packed.update(post_processor=None))


def truncation_of_another(stage_dir: Path) -> None:
    """tokenizer_config.json cuts texts at another length."""
    _change_json(stage_dir / "tokenizer_config.json", lambda settings: settings.update(model_max_length=16))


def start_token_of_another(stage_dir: Path) -> None:
    """generation_config.json begins texts with another token."""
    _change_json(stage_dir / "generation_config.json", lambda settings: settings.update(decoder_start_token_id=7))


def image_mean_of_another(stage_dir: Path) -> None:
    """preprocessor_config.json normalises as other models want it."""
    _change_json(
        stage_dir / "preprocessor_config.json", lambda settings: settings.update(image_mean=[0.485, 0.456, 0.406])
    )


def letters_of_another(stage_dir: Path) -> None:
    """The packed tokenizer of a CTC model spells two letters the other way round."""

    def swap(packed: dict[str, Any]) -> None:
        vocabulary = packed["model"]["vocab"]
        vocabulary["E"], vocabulary["T"] = vocabulary["T"], vocabulary["E"]

    _change_json(stage_dir / "tokenizer.json", swap)


def end_token_of_another(stage_dir: Path) -> None:
    """generation_config.json ends texts with another token."""
    _change_json(stage_dir / "generation_config.json", lambda settings: settings.update(eos_token_id=5))


def padding_side_of_another(stage_dir: Path) -> None:
    """tokenizer_config.json pads prompts behind their ends."""
    _change_json(stage_dir / "tokenizer_config.json", lambda settings: settings.update(padding_side="right"))


def languages_of_another(stage_dir: Path) -> None:
    """generation_config.json has the languages' tokens exchanged: speech in one comes out as text in another."""

    def swap(settings: dict[str, Any]) -> None:
        ids = settings["lang_to_id"]
        settings["lang_to_id"] = dict(zip(ids, reversed(ids.values()), strict=True))

    _change_json(stage_dir / "generation_config.json", swap)


def sampling_rate_of_another(stage_dir: Path) -> None:
    """preprocessor_config.json asks for 8 kHz: sound at half its speed."""
    _change_json(stage_dir / "preprocessor_config.json", lambda settings: settings.update(sampling_rate=8000))


def crop_of_another(stage_dir: Path) -> None:
    """preprocessor_config.json makes images of another size."""
    _change_json(
        stage_dir / "preprocessor_config.json", lambda settings: settings.update(size={"height": 48, "width": 48})
    )


def classes_of_another(stage_dir: Path) -> None:
    """config.json has the label map of another fine-tune of images."""

    def swap(config: dict[str, Any]) -> None:
        count = len(config.get("id2label") or range(4))
        config["id2label"] = {str(index): f"class {(index + 1) % count}" for index in range(count)}

    _change_json(stage_dir / "config.json", swap)


def letters_exchanged(stage_dir: Path) -> None:
    """Two letters of the packed tokenizer have each other's ids, beside a model of images and texts."""

    def swap(packed: dict[str, Any]) -> None:
        vocabulary = packed["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]

    _change_json(stage_dir / "tokenizer.json", swap)


def default_prompt_lost(stage_dir: Path) -> None:
    """config_sentence_transformers.json names no prompt that every text comes after."""
    path = stage_dir / "config_sentence_transformers.json"
    _change_json(path, lambda settings: settings.update(default_prompt_name=None))


def prompt_of_another(stage_dir: Path) -> None:
    """Queries and documents have each other's prompts."""

    def swap(settings: dict[str, Any]) -> None:
        prompts = settings["prompts"]
        prompts["query"], prompts["document"] = prompts["document"], prompts["query"]

    _change_json(stage_dir / "config_sentence_transformers.json", swap)


def embeddings_not_cut(stage_dir: Path) -> None:
    """All numbers of an embedding are kept, where the source keeps the first of them."""
    path = stage_dir / "config_sentence_transformers.json"
    _change_json(path, lambda settings: settings.update(truncate_dim=None))


def module_of_another_fine_tune(stage_dir: Path) -> None:
    """The dense layer beside the graph is not the one in it: sentence-transformers would run that one."""
    path = stage_dir / "2_Dense" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(1.5).tobytes()
    path.write_bytes(content)


def length_frozen_and_recorded(stage_dir: Path) -> None:
    """The inputs have the example's length where the symbol was, and the export recorded that as right."""
    path = stage_dir / "onnx" / "model.onnx"
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].Clear()
        value.type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, path)
    stage = Stage.open(stage_dir)
    found = description.describe(path, role="model", variant="fp32", bundle=stage_dir)
    stage.write_export(replace(stage.read_export(), graphs=(found,)))


def data_of_another_fine_tune(stage_dir: Path) -> None:
    """Weights of the same names, sizes and places, trained further: no shape and no length tells."""
    (path,) = (stage_dir / "onnx").glob("*_data")
    content = bytearray(path.read_bytes())
    start = _HEADER_BYTES + int.from_bytes(content[:_HEADER_BYTES], "little")
    weights = np.frombuffer(content, dtype=np.float32, offset=start)
    weights += np.random.default_rng(0).normal(scale=0.02, size=weights.shape).astype(np.float32)
    path.write_bytes(content)


def data_cut_short(stage_dir: Path) -> None:
    """The last quarter of the weights did not arrive."""
    (path,) = (stage_dir / "onnx").glob("*_data")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])


def data_missing(stage_dir: Path) -> None:
    """The graphs arrived without their weights."""
    (path,) = (stage_dir / "onnx").glob("*_data")
    path.unlink()


def data_of_an_earlier_export_behind_it(stage_dir: Path) -> None:
    """A file was appended to where it should have been written anew."""
    (path,) = (stage_dir / "onnx").glob("*_data")
    path.write_bytes(path.read_bytes() * 2)


def two_labels_exchanged(stage_dir: Path) -> None:
    """Two classes have each other's names in both maps of config.json."""

    def swap(config: dict[str, Any]) -> None:
        names = list(config["id2label"].values())
        names[0], names[1] = names[1], names[0]
        config["id2label"] = dict(zip(config["id2label"], names, strict=True))
        config["label2id"] = {name: number for number, name in enumerate(names)}

    _change_json(stage_dir / "config.json", swap)


def problem_type_of_another(stage_dir: Path) -> None:
    """config.json says that labels do not exclude each other: consumers give each a score of its own."""
    _change_json(stage_dir / "config.json", lambda config: config.update(problem_type="multi_label_classification"))


def file_of_an_earlier_export(stage_dir: Path) -> None:
    """A graph lies there that nobody recorded: consumers that look for it load it."""
    path = stage_dir / "onnx" / "model.onnx"
    path.with_name("model_quantized.onnx").write_bytes(path.read_bytes())


def graph_of_another_opset(stage_dir: Path) -> None:
    """The file says another opset than was asked for and recorded."""
    path = stage_dir / "onnx" / "model.onnx"
    model = onnx.load(path)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 21))
    onnx.save(model, path)


def graph_of_a_later_ir_version(stage_dir: Path) -> None:
    """The file says an IR version that no onnxruntime of the contract is known to take."""
    path = stage_dir / "onnx" / "model.onnx"
    model = onnx.load(path)
    model.ir_version = 12
    onnx.save(model, path)


def graph_cut_short(stage_dir: Path) -> None:
    """Half of the file."""
    path = stage_dir / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


_labels = partial(of_stage, model="labels", family="encoder")
_sentences = partial(of_stage, model="sentences", family="encoder")
_gpt2 = partial(of_stage, model="gpt2", family="decoder")
_patches = partial(of_stage, model="patches", family="vision")
_bart = partial(of_stage, model="bart", family="seq2seq")

MUTATIONS = (
    _labels(labels_swapped, check="answers"),
    _labels(two_labels_exchanged, check="pipeline"),
    _labels(problem_type_of_another, check="pipeline"),
    _labels(padding_token_of_another, check="packed_files"),
    _labels(vocabulary_of_another, check="tokenizer"),
    _labels(case_kept, check="tokenizer"),
    _labels(special_tokens_not_added, check="tokenizer"),
    _labels(truncation_of_another, check="packed_files"),
    _labels(length_frozen_and_recorded, check="contract", finding="shape"),
    _labels(graph_of_another_opset, check="contract"),
    _labels(graph_of_a_later_ir_version, check="contract", finding="error"),
    _labels(graph_cut_short, check="load", finding="error"),
    _labels(file_of_an_earlier_export, check="external_data", finding="unexpected"),
    _sentences(default_prompt_lost, check="sentences"),
    _sentences(prompt_of_another, check="sentences"),
    _sentences(embeddings_not_cut, check="sentences", finding="shape"),
    _sentences(module_of_another_fine_tune, check="packed_files"),
    _gpt2(end_token_of_another, check="packed_files"),
    _gpt2(padding_side_of_another, check="packed_files"),
    _bart(start_token_of_another, check="greedy"),
    _bart(data_of_another_fine_tune, check="parity"),
    _bart(data_cut_short, check="load", finding="error"),
    _bart(data_missing, check="load", finding="error"),
    _bart(data_of_an_earlier_export_behind_it, check="external_data"),
    _patches(image_mean_of_another, check="packed_files"),
    _patches(crop_of_another, check="packed_files"),
    _patches(classes_of_another, check="answers"),
    of_stage(letters_exchanged, model="pairs", family="dual", check="tokenizer"),
    of_stage(languages_of_another, model="whisper", family="speech", check="packed_files"),
    of_stage(sampling_rate_of_another, model="plain", family="speech", check="packed_files"),
    of_stage(letters_of_another, model="plain", family="speech", check="tones"),
)
