"""transformers' tables as they are read from its source, held to those that it has when it is imported."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import transformers
from transformers.models.auto import configuration_auto, modeling_auto

from onnx_fleet.conventions import auto_mappings


def _auto_classes() -> dict[str, Any]:
    found = {name: getattr(modeling_auto, name) for name in dir(modeling_auto) if name.startswith("Auto")}
    return {name: kind for name, kind in found.items() if getattr(kind, "_model_mapping", None) is not None}


def test_every_auto_class_has_the_very_same_classes() -> None:
    autos = _auto_classes()
    assert len(autos) > 40
    for name, kind in autos.items():
        for model_type, classes in kind._model_mapping._model_mapping.items():
            own = (classes,) if isinstance(classes, str) else tuple(each for each in classes if each)
            assert auto_mappings.loads(name, model_type) == own, (name, model_type)
    assert auto_mappings.loads("AutoModelForCausalLM", "t5") == ()
    assert auto_mappings.loads("AutoModelForNothing", "bert") == ()


def test_model_types_are_those_that_transformers_has() -> None:
    assert all(map(auto_mappings.knows_type, configuration_auto.CONFIG_MAPPING_NAMES))
    assert not auto_mappings.knows_type("no_such_type")


@pytest.mark.parametrize(
    "name",
    [
        "BertForMaskedLM",
        "GPT2LMHeadModel",
        "BertForPreTraining",
        "T5EncoderModel",
        "MT5EncoderModel",
        "GPT2DoubleHeadsModel",  # in no table: its module says it
        "CLIPTextModelWithProjection",
        "ASTForAudioClassification",
        "XLMRobertaForTokenClassification",
    ],
)
def test_the_model_type_of_a_class_is_that_of_its_configuration(name: str) -> None:
    assert auto_mappings.model_types(name)[0] == getattr(transformers, name).config_class.model_type
    assert auto_mappings.has_class(name)


def test_a_class_that_is_not_there_is_of_no_type() -> None:
    assert auto_mappings.model_types("BertForNothing") == ()
    assert not auto_mappings.has_class("BertForNothing")


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("BertModel", {"text"}),
        ("CLIPModel", {"text", "image"}),
        ("CLIPVisionModel", {"image"}),
        ("Sam3VisionModel", {"image"}),  # which calls itself one of text, too
        ("ClapModel", {"text", "audio"}),
        ("Wav2Vec2Model", {"audio"}),
        ("LayoutLMv3Model", {"text", "image"}),
        ("ASTModel", {"audio"}),
        ("Molmo2TextModel", {"text"}),
        ("Qwen2VLModel", {"text", "image", "video"}),
        ("PatchTSTModel", {"time"}),
    ],
)
def test_a_class_takes_what_its_forward_does(name: str, takes: set[str]) -> None:
    kind = getattr(transformers, name)
    assert auto_mappings.modalities(name, model_type=kind.config_class.model_type) == takes


def test_the_inputs_of_every_bare_model_are_read_as_python_reads_them() -> None:
    known = {"input_ids": "text", "pixel_values": "image", "input_values": "audio", "input_features": "audio"}
    for name in ("AlbertModel", "BartModel", "ViTModel", "SwinModel", "WhisperModel", "FunnelModel", "SiglipModel"):
        kind = getattr(transformers, name)
        own = {known[each] for each in inspect.signature(kind.forward).parameters if each in known}
        assert auto_mappings.modalities(name, model_type=kind.config_class.model_type) == own, name


def test_what_a_class_is_for_is_said_in_words() -> None:
    assert auto_mappings.purpose("SamModel") == "mask generation"
    assert auto_mappings.purpose("VitsModel") == "text to waveform"
    assert auto_mappings.purpose("BertModel") == ""
