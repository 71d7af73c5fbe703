"""PyTorch's answers, from the plain model of transformers: each input alone, so that nothing is padded. Imports torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from consumers.cases import Case

Answer = dict[str, np.ndarray]


def of(case: Case, source: Path) -> list[Answer]:
    """One answer an input, without the batch axis."""
    count = len(next(iter(case.given.values())))
    inputs = [{name: values[index] for name, values in case.given.items()} for index in range(count)]
    ask = _ASKING[case.task](case, source)
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


def _embeddings(case: Case, source: Path) -> Ask:
    """What sentence-transformers makes of the folder, beside the hidden states."""
    from sentence_transformers import SentenceTransformer

    embed = SentenceTransformer(str(source), device="cpu")
    outputs = _outputs(case, source)

    def ask(given: Mapping[str, Any]) -> Answer:
        return {**outputs(given), "embeddings": embed.encode([given["texts"]])[0]}

    return ask


_ASKING: Mapping[str, Callable[[Case, Path], Ask]] = {
    "sentence-similarity": _embeddings,
    "feature-extraction": _embeddings,
    "text-classification": _outputs,
    "token-classification": _outputs,
    "question-answering": _outputs,
    "fill-mask": _outputs,
}


def _model(source: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(source)
    architecture = getattr(transformers, config.architectures[0])
    return architecture.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
