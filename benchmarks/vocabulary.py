"""Tokenizer files with a vocabulary of the model's own size, since reading one is a part of what an export costs."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

_PAD, _UNKNOWN, _BEGIN, _END = "<pad>", "<unk>", "<s>", "</s>"
_SPECIAL = (_PAD, _UNKNOWN, _BEGIN, _END)
_LETTERS = "▁" + string.ascii_letters + string.digits + string.punctuation
SMALLEST = len(_SPECIAL) + len(_LETTERS)
"""The least that a model's vocabulary must hold."""

PAD_ID, BEGIN_ID, END_ID = (_SPECIAL.index(token) for token in (_PAD, _BEGIN, _END))


def write_tokenizer(folder: Path, *, size: int, framed: bool, max_length: int) -> None:
    """Write what transformers 4 writes: tokenizers saved by transformers 5 name a class that optimum does not know.

    Args:
        size: of the vocabulary.
        framed: whether a text gets a begin and an end.
        max_length: in tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    merges = list(itertools.islice(_merges(), max(0, size - SMALLEST)))
    tokens = [*_SPECIAL, *_LETTERS, *(left + right for left, right in merges)][:size]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(_SPECIAL))
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{_BEGIN}:0 $A:0 {_END}:0",
            pair=f"{_BEGIN}:0 $A:0 {_END}:0 $B:1 {_END}:1",
            special_tokens=[(_BEGIN, BEGIN_ID), (_END, END_ID)],
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": _PAD, "unk_token": _UNKNOWN, "bos_token": _BEGIN, "eos_token": _END}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", {**settings, **roles})
    write_json(folder / "special_tokens_map.json", roles)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """One JSON object, as a repo's files hold it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of letters, then three letters, and so on: every word out of them, the short ones first."""
    letters = string.ascii_lowercase
    for length in itertools.count(2):
        for word in itertools.product(letters, repeat=length):
            yield "".join(word[:-1]), word[-1]
