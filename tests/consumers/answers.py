"""PyTorch's answers, from the plain model of transformers: each input alone, so nothing is padded. Imports torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from consumers.cases import Case
from consumers.sources import picture

NEW_TOKENS = 8

Answer = dict[str, np.ndarray]


def of(case: Case, source: Path) -> list[Answer]:
    """One answer an input, without the batch axis."""
    count = len(next(iter(case.given.values())))
    inputs = [{name: values[index] for name, values in case.given.items()} for index in range(count)]
    usual = _words_on_pages if "boxes" in case.given else _ASKING[case.task]
    ask = _ASKING_MODULES.get(case.modules, usual)(case, source)
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        return [ask(given) for given in inputs]


Ask = Callable[[Mapping[str, Any]], Answer]


def _outputs(case: Case, source: Path) -> Ask:
    """Whatever tensors the model gives for the tokens of a text or a pair."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = _model(source)

    def ask(given: Mapping[str, Any]) -> Answer:
        texts = list(given.values())
        outputs = model(**tokenizer(*texts, return_tensors="pt"))
        return {name: value[0].numpy() for name, value in outputs.items()}

    return ask


def _words_on_pages(case: Case, source: Path) -> Ask:
    """The logits of a text's tokens, by the words' boxes and the image of their page; beside them its pixels."""
    processor = transformers.AutoProcessor.from_pretrained(source)
    model = _model(source)

    def ask(given: Mapping[str, Any]) -> Answer:
        page = Image.fromarray(picture(given["images"]))
        feeds = processor(page, given["texts"].split(), boxes=given["boxes"], return_tensors="pt")
        return {"logits": model(**feeds).logits[0].numpy(), "given_pixel_values": feeds["pixel_values"][0].numpy()}

    return ask


def _embeddings(case: Case, source: Path) -> Ask:
    """What sentence-transformers makes of the folder, beside the hidden states."""
    from sentence_transformers import SentenceTransformer

    embed = SentenceTransformer(str(source), device="cpu")
    outputs = _outputs(case, source)

    def ask(given: Mapping[str, Any]) -> Answer:
        return {**outputs(given), "embeddings": embed.encode([given["texts"]])[0]}

    return ask


def _embedded(case: Case, source: Path) -> Ask:
    """What sentence-transformers makes of a source that transformers does not know."""
    from sentence_transformers import SentenceTransformer

    embed = SentenceTransformer(str(source), device="cpu")
    return lambda given: {"embeddings": embed.encode([given["texts"]])[0]}


def _weights_of_words(case: Case, source: Path) -> Ask:
    """A weight for every word, as sentence-transformers has it, beside the scores of the tokens."""
    from sentence_transformers import SparseEncoder

    embed = SparseEncoder(str(source), device="cpu")
    outputs = _outputs(case, source)

    def ask(given: Mapping[str, Any]) -> Answer:
        found: Any = embed.encode([given["texts"]], convert_to_sparse_tensor=False)
        return {**outputs(given), "embeddings": found[0].numpy()}

    return ask


def _ranked(case: Case, source: Path) -> Ask:
    """What sentence-transformers says of a query and a passage."""
    from sentence_transformers import CrossEncoder

    rank = CrossEncoder(str(source), device="cpu")
    return lambda given: {"scores": rank.predict([(given["queries"], given["passages"])])[0]}


def _generated(case: Case, source: Path) -> Ask:
    """The new tokens that the model writes, behind the prompt or the decoder's start, greedily and with two beams."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = _model(source)

    def ask(given: Mapping[str, Any]) -> Answer:
        tokens = tokenizer(given["texts"], return_tensors="pt")
        tokens.pop("token_type_ids", None)
        prompt = 1 if model.config.is_encoder_decoder else tokens["input_ids"].shape[1]
        made = {
            name: model.generate(**tokens, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=beams)
            for name, beams in (("tokens", 1), ("best_of_two_beams", 2))
        }
        return {name: tokens[0, prompt:].numpy() for name, tokens in made.items()}

    return ask


def _speech(case: Case, source: Path) -> Ask:
    """What a decoder writes after its start, or the logits of every frame; beside it the model's input."""
    extract = transformers.AutoFeatureExtractor.from_pretrained(source)
    model = _model(source)

    def ask(given: Mapping[str, Any]) -> Answer:
        inputs = extract(np.array(given["audio"], np.float32), sampling_rate=16000, return_tensors="pt")
        if not model.config.is_encoder_decoder:
            return {"logits": model(**inputs).logits[0].numpy()}
        features = inputs["input_features"]
        made = model.generate(features, max_new_tokens=NEW_TOKENS, do_sample=False, language="en", task="transcribe")
        return {"tokens": made[0].numpy()[-NEW_TOKENS:], "given_input_features": features[0].numpy()}

    return ask


def _images(case: Case, source: Path) -> Ask:
    """The logits of a picture; beside them its pixels as the model takes them."""
    model = _model(source)

    def ask(given: Mapping[str, Any]) -> Answer:
        pixels = _pixels(given["images"])
        return {"logits": model(pixels).logits[0].numpy(), "given_pixel_values": pixels[0].numpy()}

    return ask


def _pairs(case: Case, source: Path) -> Ask:
    """A text and a picture in one space, of length 1 as the whole model has them, and as each side alone gives them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = _model(source)

    def ask(given: Mapping[str, Any]) -> Answer:
        tokens = {
            name: ids for name, ids in tokenizer(given["texts"], return_tensors="pt").items() if "type" not in name
        }
        pixels = _pixels(given["images"])
        both = model(**tokens, pixel_values=pixels)
        return {
            "text_embeds": both.text_embeds[0].numpy(),
            "image_embeds": both.image_embeds[0].numpy(),
            "texts_alone": model.get_text_features(**tokens).pooler_output[0].numpy(),
            "images_alone": model.get_image_features(pixels).pooler_output[0].numpy(),
            "given_pixel_values": pixels[0].numpy(),
        }

    return ask


def _pixels(name: str) -> torch.Tensor:
    """float32 [1, 3, 32, 32] from -1 to 1, as preprocessor_config.json says."""
    return torch.from_numpy(picture(name).astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)


_ASKING: Mapping[str, Callable[[Case, Path], Ask]] = {
    "sentence-similarity": _embeddings,
    "feature-extraction": _embeddings,
    "text-classification": _outputs,
    "text-ranking": _ranked,
    "token-classification": _outputs,
    "question-answering": _outputs,
    "fill-mask": _outputs,
    "text-generation": _generated,
    "text2text-generation": _generated,
    "automatic-speech-recognition": _speech,
    "image-classification": _images,
    "zero-shot-image-classification": _pairs,
}


_ASKING_MODULES: Mapping[str, Callable[[Case, Path], Ask]] = {
    "sparse": _weights_of_words,
    "table": _embedded,
}


def _model(source: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(source)
    architecture = getattr(transformers, config.architectures[0])
    return architecture.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
