"""What the recipe `probabilities` makes of logits is what the libraries that users run make of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fixtures.items import work_item
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs import audio_inputs, image_inputs, text_inputs
from onnx_fleet.recipes import Recipe
from onnx_fleet.source import families

_BERT = {
    "vocab_size": 1200,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}
SETTINGS: list[dict[str, Any]] = [
    {"num_labels": 3},
    {"num_labels": 1},
    {"num_labels": 3, "problem_type": "multi_label_classification"},
    {"num_labels": 3, "problem_type": "single_label_classification"},
    {"num_labels": 1, "problem_type": "regression"},
    {"num_labels": 2, "problem_type": "regression"},
    {"num_labels": 2, "function_to_apply": "none"},
]
RE_RANKERS: list[dict[str, Any]] = [
    {"num_labels": 1},
    {"num_labels": 3},
    {"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    {"num_labels": 2, "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
    {"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    {"num_labels": 1, "sbert_ce_default_activation_function": "own.code.Function"},
    {"num_labels": 1, "problem_type": "regression"},
]


def _saved(model: Any, folder: Path, *, tokenizer_from: Path | None = None) -> Path:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if tokenizer_from:
            shutil.copyfile(tokenizer_from / name, folder / name)
    return folder


@pytest.fixture
def classifier(tmp_path: Path, small_repo: Path) -> Any:
    """Makes the repo of a BERT with a head of these settings."""

    def make(settings: dict[str, Any]) -> Path:
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**_BERT, **settings))
        return _saved(model, tmp_path / "acme" / "head", tokenizer_from=small_repo)

    return make


def _probabilities(folder: Path, feeds: dict[str, np.ndarray], *, task: str) -> np.ndarray:
    """What the exported model is held to: its output probabilities, a row an input."""
    item = work_item(folder, task=task, recipe="probabilities")
    family = families.family(item.family)
    model = family.load(item, folder, None)
    with torch.inference_mode():
        found = family.whole(item, model)(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    probabilities: np.ndarray = found["probabilities"].numpy()
    return probabilities


def _tokens(folder: Path, texts: list[Any]) -> dict[str, np.ndarray]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(texts, padding=True, truncation=True, return_tensors="np"))


def _by_label(answers: list[Any], labels: int) -> list[list[float]]:
    rows = [{each["label"]: each["score"] for each in row} for row in answers]
    return [[row[f"LABEL_{label}"] for label in range(labels)] for row in rows]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_text_gets_the_scores_of_transformers_pipeline(classifier: Any, settings: dict[str, Any]) -> None:
    folder, texts = classifier(settings), list(text_inputs.TEXTS)

    found = _probabilities(folder, _tokens(folder, texts), task="text-classification")

    wanted = transformers.pipeline("text-classification", str(folder), device="cpu", top_k=None)(texts)
    np.testing.assert_allclose(found, _by_label(wanted, settings["num_labels"]), atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_images_get_the_scores_of_transformers_pipeline(tmp_path: Path, settings: dict[str, Any]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, **settings)
    folder = _saved(transformers.ViTForImageClassification(config), tmp_path / "acme" / "head")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    pixels = image_inputs.batch(3, channels=3, size=(32, 32), seed=1, kind="noise", settings={})

    found = _probabilities(folder, {"pixel_values": pixels}, task="image-classification")

    runner = transformers.pipeline("image-classification", str(folder), device="cpu")
    wanted = [
        runner.postprocess(runner.forward({"pixel_values": torch.from_numpy(row[None])}), top_k=9) for row in pixels
    ]
    np.testing.assert_allclose(found, _by_label(wanted, settings["num_labels"]), atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sound_gets_the_scores_of_transformers_pipeline(tmp_path: Path, settings: dict[str, Any]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ASTConfig(**sizes, num_mel_bins=16, max_length=24, **settings)
    folder = _saved(transformers.ASTForAudioClassification(config), tmp_path / "acme" / "head")
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    values = audio_inputs.batch(3, 24, 16, seed=1, kind="noise")

    found = _probabilities(folder, {"input_values": values}, task="audio-classification")

    runner = transformers.pipeline("audio-classification", str(folder), device="cpu", top_k=None)
    wanted = [
        runner.postprocess(runner.forward({"input_values": torch.from_numpy(row[None])}), top_k=settings["num_labels"])
        for row in values
    ]
    np.testing.assert_allclose(found, _by_label(wanted, settings["num_labels"]), atol=1e-6)


@pytest.mark.parametrize("settings", RE_RANKERS, ids=str)
def test_a_re_ranker_gets_the_scores_of_cross_encoder(classifier: Any, settings: dict[str, Any]) -> None:
    from sentence_transformers import CrossEncoder

    folder = classifier(settings)
    pairs = [("How many euros?", text) for text in text_inputs.TEXTS[:3]]

    found = _probabilities(folder, _tokens(folder, pairs), task="text-ranking")

    wanted = CrossEncoder(str(folder), device="cpu").predict(pairs)
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-6)


def test_a_function_beside_the_configuration_comes_first(classifier: Any) -> None:
    folder = classifier({"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"})
    settings = {"activation_fn": "torch.nn.modules.linear.Identity", "model_type": "CrossEncoder"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    feeds = _tokens(folder, [("How many euros?", text_inputs.TEXTS[1])])

    found = _probabilities(folder, feeds, task="text-ranking")

    logits = transformers.AutoModelForSequenceClassification.from_pretrained(folder)(
        **{name: torch.from_numpy(array) for name, array in feeds.items()}
    ).logits
    np.testing.assert_allclose(found, logits.detach().numpy(), atol=1e-6)


def test_a_re_ranker_that_names_no_module_of_torch_is_refused(classifier: Any) -> None:
    folder = classifier({"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.hub.load"}})

    with pytest.raises(ExportUnsupported, match=r"activation_fn torch\.hub\.load is no module"):
        _probabilities(folder, _tokens(folder, [("a", "b")]), task="text-ranking")


def test_a_recipe_of_two_heads_is_refused() -> None:
    both = Recipe(summary="two", head=lambda inputs, outputs: {}, head_of=lambda task, model: lambda own, given: {})

    with pytest.raises(ExportUnsupported, match="both head and head_of"):
        both.of("text-classification", transformers.BertModel(transformers.BertConfig(**_BERT)))
