"""Make tokenizer.json from vocabulary files: what transformers converts, and five kinds that it leaves to Python.

A kind is told by how a tokenizer works, not by its class's name; that it is the kind is proven afterwards, on texts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_TARGET_ONLY = "\ue000"
"""A character of private use that keeps the target language's pieces apart, and is removed in decoding."""


def is_ctc(source: PreTrainedTokenizerBase) -> bool:
    """Say whether the tokenizer turns a CTC model's output into text; the model itself takes none."""
    return type(source).__name__ == "Wav2Vec2CTCTokenizer"


def covers(source: PreTrainedTokenizerBase, text: str) -> bool:
    """Say whether a made tokenizer.json can be exact on a text.

    MarianTokenizer looks up what its source language does not know in the target language's pieces, a run of letters
    at a time; no tokenizer.json does that.
    """
    spm = getattr(source, "spm_source", None)
    return spm is None or spm.unk_id() not in spm.encode(text)


def write(source: PreTrainedTokenizerBase, path: Path) -> str:
    """Write the fast form of a tokenizer.

    Returns:
        The reason why there is none, or an empty text.
    """
    name = type(source).__name__
    backend: Tokenizer | None = getattr(source, "backend_tokenizer", None)
    if backend is None:
        backend = _of_python(source)
    if backend is None:
        return f"its {name} runs in Python, and no tokenizer.json does what it does"
    backend.save(str(path))
    return ""


def _of_python(source: Any) -> Tokenizer | None:
    if is_ctc(source):
        return _ctc(source)
    if type(source).__name__ == "MarianTokenizer":
        return None if getattr(source, "separate_vocabs", False) else _marian(source)
    if _reads_bytes(source):
        return _bytes(source)
    if hasattr(source, "wordpiece_tokenizer") and hasattr(source, "basic_tokenizer"):
        return _wordpiece(source)
    if set(getattr(source, "unique_no_split_tokens", ())) >= set(source.get_vocab()) - set(source.all_special_tokens):
        return _words(source)
    return None


def _reads_bytes(source: Any) -> bool:
    """Say whether each byte of a text is a token of its own: ByT5, Perceiver."""
    text = "né\u6771"
    try:
        return not source.vocab_files_names and list(source._tokenize(text)) == [chr(one) for one in text.encode()]
    except (NotImplementedError, AttributeError):
        return False


def _bytes(source: Any) -> Tokenizer:
    """Make a tokenizer in which every byte has the id that the class has for it, and no two are ever joined."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    names: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
    vocabulary = {str(token): id_ for id_, token in source.added_tokens_decoder.items()}
    vocabulary |= {names[one]: int(source._convert_token_to_id(chr(one))) for one in range(256)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    decoders: list[dict[str, object]] = [level]
    if not source.convert_tokens_to_string([chr(0x80)]):  # half a character goes; a text's own U+FFFD goes with it
        decoders.append({"type": "Replace", "pattern": {"String": "\ufffd"}, "content": ""})
    return _from(
        source,
        model={"type": "BPE", "vocab": vocabulary, "merges": []},
        pre_tokenizer=level,
        decoder={"type": "Sequence", "decoders": decoders},
    )


def _wordpiece(source: Any) -> Tokenizer:
    """Make a WordPiece tokenizer for BERT's method under another class's name: RoCBert, ProphetNet, Tapas."""
    basic = source.basic_tokenizer
    return _from(
        source,
        model={"type": "WordPiece", "unk_token": str(source.unk_token), "continuing_subword_prefix": "##",
               "max_input_chars_per_word": source.wordpiece_tokenizer.max_input_chars_per_word,
               "vocab": dict(source.vocab)},
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": basic.tokenize_chinese_chars,
             "strip_accents": basic.strip_accents, "lowercase": basic.do_lower_case},
        ]},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": False},
    )  # fmt: skip


def _words(source: Any) -> Tokenizer:
    """Make a tokenizer that finds tokens anywhere, the longest first; what is left is unknown: ESM's amino acids."""
    tokens = sorted(source.unique_no_split_tokens, key=lambda token: (-len(token), token))
    split = {"type": "Split", "pattern": {"Regex": "|".join(map(re.escape, tokens))}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    return _from(
        source,
        model={"type": "WordLevel", "vocab": source.get_vocab(), "unk_token": str(source.unk_token)},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, {"type": "WhitespaceSplit"}]},
        decoder=None,
    )


def _from(source: Any, *, model: Any, pre_tokenizer: Any, decoder: Any, normalizer: Any = None) -> Tokenizer:
    """Make a tokenizer with the source's added tokens, and special tokens around a text where the source puts them."""
    from tokenizers import Tokenizer

    data = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": _added(source, special=set(source.all_special_tokens)),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": _around(source),
        "decoder": decoder, "model": model,
    }  # fmt: skip
    made: Tokenizer = Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
    return made


def _added(source: Any, *, special: set[str]) -> list[dict[str, Any]]:
    """Return the source's added tokens, by their ids."""
    return [
        {"id": id_, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
         "rstrip": token.rstrip, "normalized": False, "special": token.content in special}
        for id_, token in sorted(source.added_tokens_decoder.items())
    ]  # fmt: skip


def _around(source: Any) -> dict[str, Any]:
    """Return what the source puts around one text and around two, found with numbers that stand for them."""
    texts = {-1: "A", -2: "B"}
    special: dict[str, dict[str, Any]] = {}

    def template(*ids: list[int]) -> list[dict[str, Any]]:
        pieces: list[dict[str, Any]] = []
        built = source.build_inputs_with_special_tokens(*ids)
        for id_, type_ in zip(built, source.create_token_type_ids_from_sequences(*ids), strict=True):
            token = texts.get(id_) or str(source.convert_ids_to_tokens(id_))
            if id_ not in texts:
                special[token] = {"id": token, "ids": [id_], "tokens": [token]}
            pieces.append({"Sequence" if id_ in texts else "SpecialToken": {"id": token, "type_id": type_}})
        return pieces

    single, pair = template([-1]), template([-1], [-2])
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _ctc(source: Any) -> Tokenizer:
    """Make a tokenizer of one token per letter; decoding joins repeats and drops the blank.

    The letters are a WordPiece vocabulary, because transformers.js and tokenizers both read that; the blank is no
    special token, or skipping those would take it away before repeats are joined.
    """
    from tokenizers import Tokenizer

    vocabulary: dict[str, int] = dict(source.encoder)
    blank, delimiter = str(source.pad_token), str(source.word_delimiter_token)
    data = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": _added(source, special=set(source.all_special_tokens) - {blank, delimiter}),
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
    """Make a tokenizer of one vocabulary over two languages that finds only the source language's pieces in a text."""
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
    """Return how sentencepiece normalises text; empty where it does not."""
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()  # type: ignore[no-untyped-call]
    proto.ParseFromString(Path(spm_file).read_bytes())
    charsmap: bytes = proto.normalizer_spec.precompiled_charsmap
    return charsmap
