"""Make tokenizer.json from vocabulary files: what transformers converts, and two kinds that it leaves to Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_TARGET_ONLY = "\ue000"
"""Private use: keeps a piece of the target language out of the source language's way, and goes in decoding."""


def is_ctc(source: PreTrainedTokenizerBase) -> bool:
    """The tokenizer turns a CTC model's output into text; the model itself takes none."""
    return type(source).__name__ == "Wav2Vec2CTCTokenizer"


def covers(source: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a made tokenizer.json can be exact on a text.

    MarianTokenizer looks up what its source language does not know in the target language's pieces, a run of letters
    at a time; no tokenizer.json does that.
    """
    spm = getattr(source, "spm_source", None)
    return spm is None or spm.unk_id() not in spm.encode(text)


def write(source: PreTrainedTokenizerBase, path: Path) -> str:
    """Write the fast form of a tokenizer.

    Returns:
        why there is none, or an empty text.
    """
    name = type(source).__name__
    backend: Tokenizer | None = getattr(source, "backend_tokenizer", None)
    if backend is None and is_ctc(source):
        backend = _ctc(source)
    elif backend is None and name == "MarianTokenizer" and not getattr(source, "separate_vocabs", False):
        backend = _marian(source)
    if backend is None:
        return f"its {name} has no fast form that runs without Python"
    backend.save(str(path))
    return ""


def _ctc(source: Any) -> Tokenizer:
    """A letter a token; decoding joins repeats and drops the blank.

    The letters are a WordPiece vocabulary, because transformers.js and tokenizers both read that; the blank is no
    special token, or skipping those would take it away before repeats are joined.
    """
    from tokenizers import Tokenizer

    vocabulary: dict[str, int] = dict(source.encoder)
    blank, delimiter = str(source.pad_token), str(source.word_delimiter_token)
    special = set(source.all_special_tokens) - {blank, delimiter}
    data = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": id_, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
             "rstrip": token.rstrip, "normalized": False, "special": token.content in special}
            for id_, token in sorted(source.added_tokens_decoder.items())
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": delimiter},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "CTC", "pad_token": blank, "word_delimiter_token": delimiter, "cleanup": True},
            {"type": "Fuse"},
            {"type": "Replace", "pattern": {"Regex": r"^\s+|\s+$"}, "content": ""},
        ]},
        "model": {"type": "WordPiece", "unk_token": str(source.unk_token), "continuing_subword_prefix": "",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    }  # fmt: skip
    made: Tokenizer = Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
    return made


def _marian(source: Any) -> Tokenizer:
    """One vocabulary over two languages, of which only the source language's pieces may be found in a text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    spm = source.spm_source
    scores = {spm.IdToPiece(index): spm.GetScore(index) for index in range(spm.GetPieceSize())}
    lowest = min(scores.values())
    special = {str(token) for token in source.all_special_tokens} | set(source.supported_language_codes)
    pieces = []
    for id_ in range(len(source.encoder)):
        piece = source.decoder[id_]
        known = piece in scores or piece in special or len(piece) == 1
        pieces.append((piece if known else _TARGET_ONLY + piece, scores.get(piece, lowest)))
    made = Tokenizer(models.Unigram(pieces, unk_id=source.encoder[str(source.unk_token)], byte_fallback=False))
    charsmap = _charsmap(source.spm_files[0])
    steps: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    made.decoder = decoders.Sequence(
        [decoders.Replace(_TARGET_ONLY, ""), decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)]
    )
    eos = str(source.eos_token)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A $B {eos}", special_tokens=[(eos, source.eos_token_id)]
    )
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in sorted(special)])
    return made


def _charsmap(spm_file: str) -> bytes:
    """How sentencepiece normalises text; empty where it does not."""
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()  # type: ignore[no-untyped-call]
    proto.ParseFromString(Path(spm_file).read_bytes())
    charsmap: bytes = proto.normalizer_spec.precompiled_charsmap
    return charsmap
