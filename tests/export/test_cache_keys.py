"""What decides a graph is in its key: every field of a configuration changes the key, or leaves the graphs the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.deep import Deep, save_deep
from onnx_fleet.entities.entry import Entry
from onnx_fleet.export import cache_keys, traced_model
from onnx_fleet.export.cache_keys import WITHOUT_EFFECT
from onnx_fleet.source import checkpoint

MODELS = ("BertForSequenceClassification", "LlamaForCausalLM")
FREE = {
    "_name_or_path": "acme/another",
    "_commit_hash": "0" * 40,
    "transformers_version": "4.57.0",
    "dtype": "float16",
    "torch_dtype": "bfloat16",
    "finetuning_task": "mnli",
}
"""Another value for each key that is said to have no effect."""

Steps = tuple[str | int, ...]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Deep:
    return save_deep(request.param, tmp_path_factory.mktemp("keyed"), num_hidden_layers=1)


@pytest.fixture
def copy(model: Deep, tmp_path: Path) -> Deep:
    """To be changed."""
    return replace(model, source_dir=Path(shutil.copytree(model.source_dir, tmp_path / "copy")))


def _key(model: Deep, **changed: Any) -> str | None:
    tensors = checkpoint.read(model.source_dir)
    for name, settings in changed.items():
        tensors[name] = replace(tensors[name], **settings)
    return cache_keys.of_graphs(model.item, source_dir=model.source_dir, tensors=tensors)


def _tokenizer_key(model: Deep) -> str | None:
    return cache_keys.of_tokenizer(model.item, source_dir=model.source_dir)


def _config(model: Deep) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model.source_dir / "config.json").read_text())
    return found


def _write(model: Deep, config: dict[str, Any]) -> None:
    (model.source_dir / "config.json").write_text(json.dumps(config))


def _leaves(value: object, path: Steps = ()) -> Iterator[tuple[Steps, object]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, (*path, key))
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from _leaves(each, (*path, index))
    else:
        yield path, value


def _other(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case _:
            return 1


def _changed(config: dict[str, Any], path: Steps) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(config))
    *way, last = path
    place: Any = made
    for step in way:
        place = place[step]
    place[last] = _other(place[last])
    return made


def test_every_field_is_in_the_key_but_those_without_effect(copy: Deep) -> None:
    config, key = _config(copy), _key(copy)
    unseen = set()
    for path, _ in _leaves(config):
        _write(copy, _changed(config, path))
        if _key(copy) == key:
            unseen.add(str(path[0]))

    assert len(list(_leaves(config))) > 20
    assert unseen <= {*WITHOUT_EFFECT, "id2label", "label2id"}
    assert {"transformers_version", "dtype"} <= unseen


def test_a_field_that_comes_or_goes_changes_the_key(copy: Deep) -> None:
    config, key = _config(copy), _key(copy)
    for name in config.keys() - WITHOUT_EFFECT:
        _write(copy, {other: value for other, value in config.items() if other != name})
        assert _key(copy) != key, name
    _write(copy, {**config, "nobody_knows": 1})

    assert _key(copy) != key


def test_fields_without_effect_leave_the_graphs_the_same(model: Deep, copy: Deep, tmp_path: Path) -> None:
    """All of them at once, and what the labels are called."""
    assert FREE.keys() == WITHOUT_EFFECT
    config = {**_config(copy), **FREE}
    if "id2label" in config:
        config["id2label"] = {index: f"other {name}" for index, name in config["id2label"].items()}
        config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    _write(copy, config)

    assert _key(copy) == _key(model)
    assert traced_model.pack(copy.trace(tmp_path / "other")) == traced_model.pack(model.trace(tmp_path / "own"))


def test_how_many_labels_there_are_is_in_the_key(tmp_path: Path, copy: Deep) -> None:
    key = _key(copy)
    _write(copy, {**_config(copy), "id2label": {str(index): f"L{index}" for index in range(9)}})

    assert _key(copy) != key


@pytest.mark.parametrize("change", [{"name": "another"}, {"shape": (2, 3)}, {"dtype": "float16"}])
def test_the_checkpoints_tensors_are_in_the_key(model: Deep, change: dict[str, Any]) -> None:
    first = next(iter(checkpoint.read(model.source_dir)))

    assert _key(model, **{first: change}) != _key(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"opset": 21},
        {"recipe": "mean"},
        {"weights": "external"},
        {"may_be_fixed": frozenset({"sequence_length"})},
        {"decoder_form": "without-cache"},
        {"tokenizer_graph": True},
    ],
)
def test_settings_of_the_entry_are_in_the_key(model: Deep, settings: dict[str, Any]) -> None:
    assert _key(model.with_entry(**settings)) != _key(model)


def test_task_toolchain_and_family_are_in_the_key(model: Deep) -> None:
    item = model.item
    others = [
        replace(item, model=replace(item.model, task="feature-extraction")),
        replace(item, toolchain={"torch": "9.9"}),
        replace(item, family="vision"),
    ]
    keys = {_key(replace(model, item=other)) for other in (item, *others)}

    assert len(keys) == 4


def test_the_commit_and_the_model_are_not(model: Deep) -> None:
    """That is what makes fine-tunes share."""
    entry = Entry(repo_id="acme/tuned", task=model.item.model.task, opset=20)
    resolved = replace(model.item.model, commit="f" * 40, repo_id="acme/tuned", entry=entry)
    other = replace(model, item=replace(model.item, model=resolved, fingerprint="0" * 64))

    assert _key(other) == _key(model)
    assert _tokenizer_key(other) == _tokenizer_key(model)


@pytest.mark.parametrize(
    ("path", "graphs", "tokenizer"),
    [
        ("preprocessor_config.json", True, False),
        ("nobody_knows.json", True, False),
        ("tokenizer.json", False, True),
        ("tokenizer_config.json", False, True),
        ("vocab.txt", False, True),
        ("generation_config.json", False, False),
        ("README.md", False, False),
    ],
)
def test_files_are_in_the_keys_of_what_they_decide(copy: Deep, path: str, graphs: bool, tokenizer: bool) -> None:
    needed = tuple(sorted({*copy.item.model.needed, path}))
    whole = replace(copy, item=replace(copy.item, model=replace(copy.item.model, needed=needed)))
    (copy.source_dir / path).write_text('{"one": 1}')
    before = _key(whole), _tokenizer_key(whole)
    (copy.source_dir / path).write_text('{"two": 2}')

    assert (_key(whole) != before[0], _tokenizer_key(whole) != before[1]) == (graphs, tokenizer)


def test_code_of_a_repo_has_no_key(model: Deep) -> None:
    own_code = model.with_entry(trust_remote_code="f" * 40)

    assert _key(own_code) is None
    assert _tokenizer_key(own_code) is None
    assert cache_keys.of_graphs(model.item, source_dir=model.source_dir, tensors={}) is None
