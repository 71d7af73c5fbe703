"""The checkpoints: real sizes with random weights, as whole Hub repos, made once.

python -m benchmarks.checkpoints [--folder var/bench] [NAME ...]
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import options
from benchmarks.vocabulary import BEGIN_ID, END_ID, PAD_ID, write_json, write_tokenizer

FORMAT = 1
"""Raise it when the made files change: checkpoints of another format are made anew."""

_SPECIAL: Mapping[str, object] = {"pad_token_id": PAD_ID, "bos_token_id": BEGIN_ID, "eos_token_id": END_ID}
_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One architecture with its sizes; its weights are drawn anew for each seed."""

    name: str
    title: str
    """For people."""
    model_class: str
    """Of transformers."""
    config: Mapping[str, object]
    """What differs from the class's own defaults, which are the sizes of the first model of its kind."""
    task: str
    peer_task: str
    """optimum's name for the same."""
    seed: int = 0
    labels: tuple[str, ...] = ()
    layers: int | None = None
    """Where a checkpoint is one of several depths of the same model: how deep it is."""

    @property
    def repo_id(self) -> str:
        return f"bench/{self.name}"

    @property
    def generates(self) -> bool:
        """Whether it makes texts token by token."""
        return self.task in ("text-generation", "text2text-generation")

    def sibling(self, seed: int, *, labels: tuple[str, ...] = ()) -> Checkpoint:
        """Another fine-tune: the same configuration but for its labels' names, other weights."""
        return replace(self, name=f"{self.name}-{seed}", seed=seed, labels=labels)


def _llama(layers: int) -> Checkpoint:
    sizes: dict[str, object] = {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": layers,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    return Checkpoint(
        name=f"llama-{layers}",
        title=f"Llama of {layers} layers",
        model_class="LlamaForCausalLM",
        config={**sizes, **_SPECIAL},
        task="text-generation",
        peer_task="text-generation-with-past",
        layers=layers,
    )


CHECKPOINTS: Mapping[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            name="bert",
            title="BERT-base",
            model_class="BertForSequenceClassification",
            config={"pad_token_id": PAD_ID},
            task="text-classification",
            peer_task="text-classification",
        ),
        Checkpoint(
            name="gpt2",
            title="GPT-2",
            model_class="GPT2LMHeadModel",
            config={"bos_token_id": END_ID, "eos_token_id": END_ID},
            task="text-generation",
            peer_task="text-generation-with-past",
        ),
        _llama(30),
        Checkpoint(
            name="t5",
            title="T5-small",
            model_class="T5ForConditionalGeneration",
            # T5 starts a text with its padding.
            config={"pad_token_id": PAD_ID, "eos_token_id": END_ID, "decoder_start_token_id": PAD_ID},
            task="text2text-generation",
            peer_task="text2text-generation-with-past",
        ),
        Checkpoint(
            name="bart",
            title="BART-base",
            model_class="BartForConditionalGeneration",
            config={
                "encoder_layers": 6,
                "decoder_layers": 6,
                "d_model": 768,
                "encoder_attention_heads": 12,
                "decoder_attention_heads": 12,
                "encoder_ffn_dim": 3072,
                "decoder_ffn_dim": 3072,
                **_SPECIAL,
                "decoder_start_token_id": END_ID,
                "forced_eos_token_id": END_ID,
            },
            task="text2text-generation",
            peer_task="text2text-generation-with-past",
        ),
        _llama(12),
        _llama(60),
    )
}

MAIN = ("bert", "gpt2", "llama-30", "t5", "bart")
GROWTH = ("llama-12", "llama-30", "llama-60")
GENERATING = ("gpt2", "llama-30", "t5", "bart")

FINE_TUNED = Checkpoint(
    name="mini",
    title="BERT-mini",
    model_class="BertForSequenceClassification",
    config={
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "pad_token_id": PAD_ID,
    },
    task="text-classification",
    peer_task="text-classification",
)


def fine_tunes(count: int, *, of: Checkpoint = FINE_TUNED) -> tuple[Checkpoint, ...]:
    """So many fine-tunes of one architecture, each with its own weights and its own names for its labels."""
    kinds = ("refund", "delivery", "praise", "other")
    return tuple(of.sibling(seed, labels=tuple(f"{kind}-{seed}" for kind in kinds)) for seed in range(count))


def make(checkpoint: Checkpoint, root: Path) -> Path:
    """Have a checkpoint under ``root/<org>/<name>``; what is there already is kept. Imports torch where it is not."""
    folder = root / checkpoint.repo_id
    stamp = folder.with_name(f"{folder.name}.made")  # a file, which no Hub takes for a repo
    if folder.is_dir() and stamp.is_file() and stamp.read_text() == str(FORMAT):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as unfinished:
        made = Path(unfinished) / folder.name
        _save(checkpoint, made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    stamp.write_text(str(FORMAT))
    return folder


def weight_bytes(folder: Path) -> int:
    """What a checkpoint's weights take on disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def named(names: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints of these names, each once.

    Raises:
        SystemExit: there is none of a name.
    """
    unknown = [name for name in names if name not in CHECKPOINTS]
    if unknown:
        raise SystemExit(f"no checkpoint is called {', '.join(unknown)}; there are {', '.join(CHECKPOINTS)}")
    return [CHECKPOINTS[name] for name in dict.fromkeys(names)]


def _save(checkpoint: Checkpoint, folder: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(checkpoint.seed)
    model_class: Any = getattr(transformers, checkpoint.model_class)
    config = model_class.config_class(**checkpoint.config)
    if checkpoint.labels:
        config.id2label = dict(enumerate(checkpoint.labels))
        config.label2id = {label: index for index, label in enumerate(checkpoint.labels)}
    model = model_class(config).eval()
    model.save_pretrained(folder)
    _say_it_as_transformers_4(folder / "config.json")
    write_tokenizer(
        folder,
        size=config.vocab_size,
        framed=checkpoint.task != "text-generation",
        max_length=min(_MAX_LENGTH, getattr(config, "max_position_embeddings", _MAX_LENGTH)),
    )
    (folder / "README.md").write_text(
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: {checkpoint.task}\n---\n\n"
        f"The sizes of {checkpoint.title} with random weights, to measure an export with.\n",
        encoding="utf-8",
    )


def _say_it_as_transformers_4(path: Path) -> None:
    """The peer reads with transformers 4, which knows the rotary embeddings' settings by their older names."""
    config = json.loads(path.read_bytes())
    rope = config.pop("rope_parameters", None)
    if rope is not None:
        config["rope_theta"] = rope["rope_theta"]
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    write_json(path, config)


def main() -> None:
    """Make the checkpoints that are named, or all that the benchmarks use."""
    parser = options.parser("checkpoints", __doc__, names="checkpoints")
    parser.add_argument("--fine-tunes", type=int, default=0, metavar="N", help="make N fine-tunes too")
    chosen = parser.parse_args()
    for checkpoint in (*named(chosen.names or list(CHECKPOINTS)), *fine_tunes(chosen.fine_tunes)):
        folder = make(checkpoint, chosen.folder / "hub")
        print(f"{checkpoint.repo_id}: {weight_bytes(folder) / 1e6:.0f} MB in {folder}", flush=True)


if __name__ == "__main__":
    main()
