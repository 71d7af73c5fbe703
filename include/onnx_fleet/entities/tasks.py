"""The tasks that a catalogue may name, and the model class that does each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Modality = Literal["text", "image", "audio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a model is used for."""

    name: str
    """The Hub's pipeline tag; ``multiple-choice`` is ours."""
    family: str
    """The family that exports it, a file of onnx_fleet.source.families."""
    auto_classes: tuple[str, ...]
    """The classes of transformers that load a model for it; the first that knows the model's configuration is taken."""
    architectures: tuple[str, ...] = ()
    """How the names of architectures that serve it end; of several tasks the one with the longest end is meant."""
    takes: tuple[Modality, ...] = ("text",)
    """What a model takes: text needs a tokenizer, images and sound need a preprocessor."""
    model_types: tuple[str, ...] = ()
    """The model types that are proven, where others do the task in a way that is not; empty where any may be tried."""


def _encoder(name: str, auto_class: str, *architectures: str, else_class: str | None = None) -> Task:
    classes = (auto_class,) if else_class is None else (auto_class, else_class)
    return Task(name=name, family="encoder", auto_classes=classes, architectures=architectures)


def _vision(name: str, auto_class: str, *architectures: str) -> Task:
    return Task(name=name, family="vision", auto_classes=(auto_class,), architectures=architectures, takes=("image",))


def _seq2seq(name: str, *architectures: str) -> Task:
    return Task(name=name, family="seq2seq", auto_classes=("AutoModelForSeq2SeqLM",), architectures=architectures)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _encoder("feature-extraction", "AutoModel", "Model", "TextModelWithProjection"),
        _encoder("sentence-similarity", "AutoModel"),
        _encoder("fill-mask", "AutoModelForMaskedLM", "ForMaskedLM"),
        _encoder("text-classification", "AutoModelForSequenceClassification", "ForSequenceClassification"),
        _encoder("zero-shot-classification", "AutoModelForSequenceClassification"),
        _encoder("text-ranking", "AutoModelForSequenceClassification"),
        _encoder("token-classification", "AutoModelForTokenClassification", "ForTokenClassification"),
        _encoder(
            "question-answering",
            "AutoModelForQuestionAnswering",
            "ForQuestionAnswering",
            else_class="AutoModelForDocumentQuestionAnswering",
        ),
        _encoder(
            "document-question-answering",
            "AutoModelForDocumentQuestionAnswering",
            else_class="AutoModelForQuestionAnswering",
        ),
        _encoder("multiple-choice", "AutoModelForMultipleChoice", "ForMultipleChoice"),
        Task(
            name="text-generation",
            family="decoder",
            auto_classes=("AutoModelForCausalLM",),
            architectures=("ForCausalLM", "LMHeadModel"),
        ),
        _seq2seq("text2text-generation", "ForConditionalGeneration", "MTModel"),
        _seq2seq("summarization"),
        _seq2seq("translation"),
        _vision("image-classification", "AutoModelForImageClassification", "ForImageClassification"),
        _vision("image-feature-extraction", "AutoModel", "ViTModel", "Dinov2Model", "BeitModel", "ConvNextModel"),
        Task(
            name="image-segmentation",
            family="vision",
            auto_classes=(
                "AutoModelForSemanticSegmentation", "AutoModelForUniversalSegmentation",
                "AutoModelForInstanceSegmentation",
            ),
            architectures=(
                "ForSemanticSegmentation", "ForUniversalSegmentation", "ForInstanceSegmentation", "ForSegmentation",
            ),
            takes=("image",),
        ),
        _vision("object-detection", "AutoModelForObjectDetection", "ForObjectDetection"),
        _vision("depth-estimation", "AutoModelForDepthEstimation", "ForDepthEstimation"),
        Task(
            name="automatic-speech-recognition",
            family="speech",
            auto_classes=("AutoModelForSpeechSeq2Seq", "AutoModelForCTC"),
            architectures=(
                "ForCTC", "WhisperForConditionalGeneration", "Speech2TextForConditionalGeneration",
                "MoonshineForConditionalGeneration",
            ),
            takes=("audio", "text"),
        ),
        Task(
            name="audio-classification",
            family="speech",
            auto_classes=("AutoModelForAudioClassification",),
            architectures=("ForAudioClassification",),
            takes=("audio",),
        ),
        Task(
            name="zero-shot-image-classification",
            family="dual",
            auto_classes=("AutoModelForZeroShotImageClassification",),
            architectures=(
                "CLIPModel", "MetaClip2Model", "CLIPSegModel", "BlipModel", "SiglipModel", "Siglip2Model", "AlignModel",
                "Tipsv2Model",
            ),
            takes=("text", "image"),
        ),
        Task(
            name="image-text-to-text",
            family="vlm",
            auto_classes=("AutoModelForImageTextToText",),
            architectures=(
                "Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration", "LlavaForConditionalGeneration",
                "VLForConditionalGeneration", "VisionForConditionalGeneration", "OCRForConditionalGeneration",
                "GotOcr2ForConditionalGeneration", "JanusForConditionalGeneration",
            ),
            takes=("text", "image"),
            model_types=(
                "aya_vision", "cohere2_vision", "deepseek_vl", "got_ocr2", "idefics3", "internvl", "janus", "llava",
                "qianfan_ocr", "smolvlm", "vipllava",
            ),
        ),
    )
}  # fmt: skip


def of_architecture(name: str) -> Task | None:
    """Find the task that an architecture serves, by the end of its name; None when no end fits."""
    fitting = [
        (len(end), task)
        for task in TASKS.values()
        for end in task.architectures
        # A language model's class ends with LMHeadModel, and is no bare model.
        if name.endswith(end) and not (end == "Model" and name.endswith(("HeadModel", "HeadsModel")))
    ]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None
