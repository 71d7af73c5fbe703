"""Small real models, saved as the Hub has them: weights, configuration, the tokenizer's own files. Imports torch."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from consumers.cases import Case
from fixtures import sentences
from onnx_fleet.source import static_embedding
from onnx_fleet_demo import corpus, models
from zoo.weights import scale


def make(case: Case, root: Path) -> Path:
    """The case's source under ``root/<org>/<name>``."""
    if case.repo:
        models.make_repos(root, repo_ids=(case.repo,))
        return root / case.repo
    folder = root / "acme" / case.name
    if case.modules:
        models.make_repos(root, repo_ids=(models.CLASSIFIER,))
        MODULES[case.modules](folder, root / models.CLASSIFIER)
        PREPROCESSING[case.tokenizer](folder, root)  # transformers 5 saves tokenizers that older ones cannot read
        return folder
    architecture = getattr(transformers, case.model)
    torch.manual_seed(7)
    model = architecture(architecture.config_class(**case.config))
    scale(model)
    if case.generation:
        model.generation_config = transformers.GenerationConfig(**case.generation)
    model.save_pretrained(folder)
    PREPROCESSING[case.tokenizer](folder, root)
    if case.pooling:
        _sentence_transformers(folder, pooling=case.pooling, width=case.config["hidden_size"])
    return folder


def _wordpiece(folder: Path, root: Path) -> None:
    """The demo classifier's, under the class name that the model's own repos have: transformers.js goes by it."""
    models.make_repos(root, repo_ids=(models.CLASSIFIER,))
    for name in ("tokenizer.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(root / models.CLASSIFIER / name, folder / name)
    settings = json.loads((root / models.CLASSIFIER / "tokenizer_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    takes_types = config.get("type_vocab_size", 1) > 1
    name = {"bert": "BertTokenizer", "electra": "ElectraTokenizer"}.get(config["model_type"], "PreTrainedTokenizerFast")
    inputs = ["input_ids", *(["token_type_ids"] if takes_types else []), "attention_mask"]
    changes = {"tokenizer_class": name, "model_input_names": inputs, "model_max_length": 64}
    _write(folder / "tokenizer_config.json", {**settings, **changes})


def _bpe(
    folder: Path,
    root: Path,
    *,
    specials: tuple[str, ...] = ("<pad>", "<s>", "</s>"),
    around: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    **settings: Any,
) -> None:
    """Bytes, merged as in the demo's corpus; the special tokens have the first ids, and some stand around a text."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=600, special_tokens=list(specials), initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(corpus.sentences(), trainer)
    if around:
        ids = [(token, specials.index(token)) for part in around for token in part]
        first, last = (" ".join(part) for part in around)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A $B {last}", special_tokens=ids
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<pad>"}
    usual = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, **named}
    usual["model_input_names"] = ["input_ids", "attention_mask"]
    _write(folder / "tokenizer_config.json", {**usual, "clean_up_tokenization_spaces": False, **settings})


def _whisper(folder: Path, root: Path) -> None:
    """Two languages, and sound of two seconds at most."""
    words = ("startoftranscript", "en", "de", "transcribe", "translate", "notimestamps")
    end = "<|endoftext|>"
    _bpe(
        folder,
        root,
        specials=("<pad>", "<s>", "</s>", end, *(f"<|{word}|>" for word in words)),
        around=(("<|startoftranscript|>", "<|notimestamps|>"), (end,)),
        **dict.fromkeys(("pad_token", "bos_token", "eos_token", "unk_token"), end),
        tokenizer_class="WhisperTokenizer",
    )
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]
    _write(folder / "vocab.json", vocabulary["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in vocabulary["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=2).save_pretrained(folder)


def _ctc(folder: Path, root: Path) -> None:
    """Letters, and waveforms of unit variance, with a mask where the model's normalisation goes by it."""
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
    _write(folder / "vocab.json", {letter: index for index, letter in enumerate(letters)})
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer", **special})
    masked = json.loads((folder / "config.json").read_text())["feat_extract_norm"] == "layer"
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked).save_pretrained(folder)


def _images(folder: Path, root: Path) -> None:
    """Pictures of the model's own size: how two libraries shrink one is not what is compared here."""
    steps = {"do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2}
    steps |= {"do_rescale": True, "rescale_factor": 1 / 255}
    steps |= {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    _write(folder / "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor", **steps})


def _words_and_page(folder: Path, root: Path) -> None:
    """LayoutLMv3's: words with their boxes, beside the image of their page, which nobody reads words off."""
    _bpe(
        folder,
        root,
        specials=("<pad>", "<s>", "</s>", "<unk>", "<mask>"),
        tokenizer_class="LayoutLMv3Tokenizer",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask", "bbox"],
        processor_class="LayoutLMv3Processor",
    )
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    _write(folder / "vocab.json", model["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    _images(folder, root)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    kinds = {"image_processor_type": "LayoutLMv3ImageProcessor", "processor_class": "LayoutLMv3Processor"}
    _write(folder / "preprocessor_config.json", {**settings, **kinds, "apply_ocr": False})


def _clip(folder: Path, root: Path) -> None:
    """Texts end with a token that the model pools, and pictures are as a ViT's."""
    _bpe(folder, root, specials=("<pad>", "<s>", "<mask>", "</s>"), around=(("<s>",), ("</s>",)))
    _images(folder, root)


PREPROCESSING: Mapping[str, Callable[[Path, Path], None]] = {
    "wordpiece": _wordpiece,
    "bpe": _bpe,
    "whisper": _whisper,
    "ctc": _ctc,
    "images": _images,
    "clip": _clip,
    "words-and-page": _words_and_page,
    "its-own": lambda folder, root: None,
}


def _dense(folder: Path, tokenizer: Path) -> None:
    """A dense layer behind the mean, and a prompt that comes before nothing by itself."""
    sentences.save(folder, tokenizer_from=tokenizer, behind=sentences.square, prompts=sentences.PROMPTS)


def _sparse(folder: Path, tokenizer: Path) -> None:
    """SPLADE: a weight for every word."""
    sentences.save(
        folder,
        tokenizer_from=tokenizer,
        behind=sentences.splade,
        task="fill-mask",
        auto_class="AutoModelForMaskedLM",
    )


def _re_ranker(folder: Path, tokenizer: Path) -> None:
    sentences.save_re_ranker(folder, tokenizer_from=tokenizer)


def _table(folder: Path, tokenizer: Path) -> None:
    """A table of vectors, laid out as a download lays it out."""
    sentences.save_table(folder, tokenizer_from=tokenizer)
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    for name, text in static_embedding.texts(files, subject=folder.name).items():
        (folder / name).write_text(text, encoding="utf-8")


MODULES: Mapping[str, Callable[[Path, Path], None]] = {
    "dense": _dense,
    "sparse": _sparse,
    "re-ranker": _re_ranker,
    "table": _table,
}


def draw(case: Case, folder: Path) -> None:
    """The pictures that a case asks about, as PNG files."""
    for name in case.given.get("images", ()):
        pixels = picture(name)
        height, width, _ = pixels.shape
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def picture(name: str) -> np.ndarray:
    """uint8 [32, 32, 3], another one for each name."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def _sentence_transformers(folder: Path, *, pooling: str, width: int) -> None:
    """What makes a folder one of sentence-transformers': its modules, the pooling, the length."""
    steps = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(steps)
    ]
    _write(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    modes = {f"pooling_mode_{mode}": mode == f"{pooling}_token{'s' * (pooling == 'mean')}" for mode in _MODES}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})


_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


def _write(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
