"""Which class and which task a repo's words give; what they do not give is refused in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnx_fleet.entities.entry import Entry
from onnx_fleet.errors import ExportUnsupported, ModelInvalid, OnnxFleetError
from onnx_fleet.source import architecture
from onnx_fleet.source.architecture import Declared

ROOT = Path(__file__).parents[2]


def _decided(
    name: str | None, model_type: str | None, *, tag: str | None = None, own_code: bool = False, **entry: str
) -> tuple[str, str, str]:
    said = Declared(architecture=name, model_type=model_type, pipeline_tag=tag, own_code=own_code)
    found = architecture.decide(Entry(repo_id="acme/x", **entry), said, subject="acme/x@3f2a1c0")  # type: ignore[arg-type]
    return found.architecture, found.model_type, found.task


@pytest.mark.parametrize(
    ("tag", "name", "model_type", "task"),
    [
        ("text-generation", "T5ForConditionalGeneration", "t5", "text2text-generation"),  # Flan-T5
        ("text-generation", "BartForConditionalGeneration", "bart", "text2text-generation"),
        ("summarization", "GPT2LMHeadModel", "gpt2", "text-generation"),
        ("translation", "LlamaForCausalLM", "llama", "text-generation"),
        ("text-ranking", "Qwen3ForCausalLM", "qwen3", "text-generation"),  # Qwen3-Reranker
        ("text-classification", "BertForTokenClassification", "bert", "token-classification"),
        ("summarization", "T5ForConditionalGeneration", "t5", "summarization"),
        ("text-ranking", "BertForSequenceClassification", "bert", "text-ranking"),
        ("zero-shot-classification", "BartForSequenceClassification", "bart", "zero-shot-classification"),
        ("fill-mask", "BertForPreTraining", "bert", "fill-mask"),
        ("sentence-similarity", "BertForMaskedLM", "bert", "sentence-similarity"),
        ("feature-extraction", "Qwen3ForCausalLM", "qwen3", "feature-extraction"),
        ("image-feature-extraction", "ViTForImageClassification", "vit", "image-feature-extraction"),
        ("image-classification", "DeiTForImageClassificationWithTeacher", "deit", "image-classification"),
    ],
)
def test_a_class_with_a_head_goes_before_a_tag_that_belies_it(tag: str, name: str, model_type: str, task: str) -> None:
    assert _decided(name, model_type, tag=tag) == (name, model_type, task)


@pytest.mark.parametrize(
    ("name", "model_type", "task"),
    [
        ("SwinModel", "swin", "image-feature-extraction"),
        ("XLMRobertaModel", "xlm-roberta", "feature-extraction"),
        ("Wav2Vec2ForSequenceClassification", "wav2vec2", "audio-classification"),
        ("Wav2Vec2ForCTC", "wav2vec2", "automatic-speech-recognition"),
        ("MarianMTModel", "marian", "text2text-generation"),
        ("DPTForDepthEstimation", "dpt", "depth-estimation"),
        ("GPT2LMHeadModel", "gpt-sw3", "text-generation"),
    ],
)
def test_without_a_tag_a_class_says_what_it_is_for(name: str, model_type: str, task: str) -> None:
    assert _decided(name, model_type) == (name, model_type, task)


def test_nothing_that_was_proven_right_is_refused() -> None:
    """Each row of docs/architectures.md names a class, its model type and the task that it is right for."""
    page = (ROOT / "docs" / "architectures.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\w.-]+) \| ([\w-]+) \| .* \| right \|", page, re.MULTILINE)
    assert len(rows) > 200
    for name, model_type, task in rows:
        assert _decided(name, model_type, tag=task) == (name, model_type, task)
        assert _decided(name, model_type, task=task) == (name, model_type, task)


@pytest.mark.parametrize(
    ("tag", "name", "model_type", "words"),
    [
        (
            "text-to-speech",
            "VitsModel",
            "vits",
            r"the Hub says text-to-speech.*VitsModel \(which .* text to waveform\)",
        ),
        (None, "VitsModel", "vits", "the Hub says no task.*text to waveform"),
        ("image-to-text", "VisionEncoderDecoderModel", "vision-encoder-decoder", "the Hub says image-to-text"),
        ("image-to-text", "BlipForConditionalGeneration", "blip", "the Hub says image-to-text.*image text to text"),
        ("visual-question-answering", "Pix2StructForConditionalGeneration", "pix2struct", "visual-question-answering"),
        ("visual-question-answering", "ViltForQuestionAnswering", "vilt", "visual question answering"),
        ("zero-shot-audio-classification", "ClapModel", "clap", "zero-shot-audio-classification"),
        (None, "ClapModel", "clap", "ClapModel serves none"),
        ("feature-extraction", "Wav2Vec2Model", "wav2vec2", "feature-extraction, which the Hub says, does not fit"),
        ("mask-generation", "SamModel", "sam", "mask-generation.*for mask generation"),
        ("text-to-audio", "MusicgenForConditionalGeneration", "musicgen", "text-to-audio"),
        ("zero-shot-object-detection", "OwlViTForObjectDetection", "owlvit", "zero-shot-object-detection"),
        ("audio-text-to-text", "Qwen2AudioForConditionalGeneration", "qwen2_audio", "audio-text-to-text"),
        ("time-series-forecasting", "PatchTSTModel", "patchtst", "time-series-forecasting"),
        ("video-classification", "VideoMAEForVideoClassification", "videomae", "for video classification"),
        ("fill-mask", "BertForNextSentencePrediction", "bert", "for next sentence prediction"),
        ("audio-classification", "Wav2Vec2ForXVector", "wav2vec2", "for audio xvector"),
        ("table-question-answering", "TapasForQuestionAnswering", "tapas", "for table question answering"),
        (
            "image-text-to-text",
            "LlavaNextForConditionalGeneration",
            "llava_next",
            "only aya_vision, .* and vipllava are",
        ),
    ],
)
def test_a_model_of_another_task_is_refused_by_it(tag: str | None, name: str, model_type: str, words: str) -> None:
    with pytest.raises(ExportUnsupported, match=f"^acme/x@3f2a1c0: .*{words}") as refused:
        _decided(name, model_type, tag=tag)
    assert len(str(refused.value)) < 400
    assert "remove the entry" in str(refused.value)


def test_an_entrys_task_that_does_not_fit_is_refused_with_those_that_do() -> None:
    with pytest.raises(ExportUnsupported) as refused:
        _decided("T5ForConditionalGeneration", "t5", task="text-generation")
    said = "task text-generation does not fit T5ForConditionalGeneration"
    advice = "write task: with text2text-generation, summarization or translation, or remove the entry"
    assert str(refused.value).startswith(f"acme/x@3f2a1c0: {said}")
    assert str(refused.value).endswith(advice)
    with pytest.raises(ExportUnsupported, match=r"does not fit VitsModel .*serve the model with PyTorch$"):
        _decided("VitsModel", "vits", task="feature-extraction")
    with pytest.raises(ExportUnsupported, match=r"write task: with image-feature-extraction, or remove"):
        _decided("ViTModel", "vit", task="feature-extraction")


def test_a_model_type_and_a_task_tell_the_class() -> None:
    assert _decided(None, "deberta-v2", tag="fill-mask") == ("DebertaV2ForMaskedLM", "deberta-v2", "fill-mask")
    assert _decided(None, "deberta-v2", task="feature-extraction")[0] == "DebertaV2Model"
    assert _decided(None, "wav2vec2", task="automatic-speech-recognition")[0] == "Wav2Vec2ForCTC"
    with pytest.raises(
        ExportUnsupported, match=r"no text-generation model of type 't5'; write task: with another one, such as"
    ):
        _decided(None, "t5", task="text-generation")


@pytest.mark.parametrize(
    ("name", "model_type", "error", "words"),
    [
        (None, None, ModelInvalid, "neither 'architectures' nor 'model_type'"),
        (None, "bert", ModelInvalid, "no 'architectures', and the Hub says no task; write task: with"),
        ("BertForNothing", None, ExportUnsupported, "no class BertForNothing; did you mean"),
        ("HF_ColBERT", "bert", ExportUnsupported, "no class HF_ColBERT, .*such as BertForMaskedLM"),
        ("AcmeModel", "acme", ExportUnsupported, r"no model type 'acme' \(AcmeModel\), and the repo brings no code"),
    ],
)
def test_what_nothing_tells_is_asked_for(
    name: str | None, model_type: str | None, error: type[OnnxFleetError], words: str
) -> None:
    with pytest.raises(error, match=words):
        _decided(name, model_type)


def test_an_entrys_class_tells_the_model_type_and_overrides() -> None:
    bert = ("BertForMaskedLM", "bert", "fill-mask")
    assert _decided(None, None, architecture="BertForMaskedLM") == bert
    assert _decided("BertForNothing", "bert", architecture="BertForMaskedLM") == bert
    assert _decided("RobertaForMaskedLM", "roberta", architecture="BertForMaskedLM") == bert
    assert _decided("GPT2Model", "gpt-sw3", architecture="GPT2LMHeadModel")[1] == "gpt-sw3"


def test_a_class_of_the_repos_own_goes_by_the_names_alone() -> None:
    assert _decided("AcmeForMaskedLM", "acme", own_code=True) == ("AcmeForMaskedLM", "acme", "fill-mask")
    assert _decided("AcmeModel", "acme", tag="text-ranking", own_code=True)[2] == "text-ranking"
    with pytest.raises(ModelInvalid, match=r"config\.json has no .model_type."):
        _decided("AcmeModel", None, own_code=True)
