"""Small real models, saved as the Hub has them: weights, configuration, the tokenizer's own files. Imports torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import transformers

from consumers.cases import Case
from onnx_fleet_demo import models
from zoo.weights import scale


def make(case: Case, root: Path) -> Path:
    """The case's source under ``root/<org>/<name>``."""
    if case.repo:
        models.make_repos(root, repo_ids=(case.repo,))
        return root / case.repo
    folder = root / "acme" / case.name
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


PREPROCESSING: Mapping[str, Callable[[Path, Path], None]] = {"wordpiece": _wordpiece}


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
