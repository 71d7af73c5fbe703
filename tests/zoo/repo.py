"""Zoo models as Hub repos: weights, configuration, tokenizer and preprocessor files, laid out as the Hub has them."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.architecture import Architecture

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig

_FRAMED = ("encoder", "seq2seq", "dual")
"""Families whose tokenizers put a begin and an end around a text."""
_TOKENS_OF = ("encoder", "decoder", "seq2seq", "dual", "vlm")
_UNBOUND = int(1e30)


def save(architecture: Architecture, folder: Path) -> None:
    """Write the whole repo. Imports torch.

    Every text model gets one kind of tokenizer: a token a character, over its own vocabulary, its special tokens where
    its configuration has them.
    """
    model = architecture.build()
    model.save_pretrained(folder)
    config = model.config
    if model.can_generate():
        _save_generation(architecture, config, folder)
    takes_text = architecture.family in _TOKENS_OF
    speaks = architecture.family == "speech" and architecture.task == "automatic-speech-recognition"
    if takes_text or (speaks and model.can_generate()):
        _save_tokenizer(architecture, config, folder)
    elif speaks:
        _save_characters(config, folder)
    if architecture.family in ("vision", "dual", "vlm"):
        _write(folder / "preprocessor_config.json", _image_processor(architecture, config))
    if architecture.family == "speech":
        _write(folder / "preprocessor_config.json", _feature_extractor(config))


def _save_generation(architecture: Architecture, config: PreTrainedConfig, folder: Path) -> None:
    """The configuration's own tokens, and what the row adds."""
    text = config.get_text_config(decoder=True)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id")
    said = {name: value for name in names if (value := getattr(text, name, None)) is not None}
    _write(folder / "generation_config.json", {"_from_model_config": True, **said, **architecture.generation})


def _save_tokenizer(architecture: Architecture, config: PreTrainedConfig, folder: Path) -> None:
    text = config.get_text_config()
    special = _special_tokens(text, size=int(text.vocab_size))
    _tokenizer(special, size=int(text.vocab_size), framed=architecture.family in _FRAMED).save(
        str(folder / "tokenizer.json")
    )
    by_role = {f"{role}_token": token for role, token in _roles(text, special).items()}
    positions = getattr(text, "max_position_embeddings", None)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _UNBOUND if positions is None else min(int(positions), 100),
        "clean_up_tokenization_spaces": False,
        **by_role,
        **_taken_inputs(config.model_type),
    }
    if config.model_type == "siglip":  # its texts are read with their padding
        settings["model_input_names"] = ["input_ids"]
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", by_role)
    _keep_own_class(folder)


def _taken_inputs(model_type: str) -> dict[str, list[str]]:
    """What the model type's own tokenizer gives: XLM's gives no token types, and its model would add them to tokens."""
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    own = getattr(transformers, TOKENIZER_MAPPING_NAMES.get(model_type) or "", None)
    names = getattr(own, "model_input_names", None)
    return {"model_input_names": list(names)} if names else {}


def _keep_own_class(folder: Path) -> None:
    """Qwen2 and SigLIP 2 get their own class of tokenizer whatever their repos say: write what that one does."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if type(tokenizer).__name__ != "TokenizersBackend":
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def _special_tokens(config: PreTrainedConfig, *, size: int) -> dict[int, str]:
    """Eight ids with a token each, where the configuration wants them; the others are unused ones."""
    wanted = {
        "pad_token_id": "<pad>",
        "bos_token_id": "<s>",
        "eos_token_id": "</s>",
        "mask_token_id": "<mask>",
    }
    special: dict[int, str] = {}
    for name, token in wanted.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and 0 <= value < size:
            special.setdefault(value, token)
    for token in ("<unk>", "<mask>", "<s>", "</s>", "<pad>"):
        if token not in special.values():
            special[next(free for free in range(8) if free not in special)] = token
    return special | {free: f"<unused{free}>" for free in range(8) if free not in special}


def _roles(config: PreTrainedConfig, special: Mapping[int, str]) -> dict[str, str]:
    """What the configuration calls each: Pegasus has no begin, and T5 starts with its padding."""
    roles = {
        role: special[value]
        for role in ("pad", "bos", "eos")
        if isinstance(value := getattr(config, f"{role}_token_id", None), int) and value in special
    }
    return {"pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>", **roles}


def _tokenizer(special: Mapping[int, str], *, size: int, framed: bool) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = iter("▁" + string.ascii_letters + string.digits + string.punctuation + "éüïñßøåçàè東京日本语プриет")
    vocabulary = {special.get(index) or next(letters): index for index in range(size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for _, token in sorted(special.items())])
    if framed:
        begin, end = vocabulary["<s>"], vocabulary["</s>"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s>:0 $A:0 </s>:0",
            pair="<s>:0 $A:0 </s>:0 $B:1 </s>:1",
            special_tokens=[("<s>", begin), ("</s>", end)],
        )
    return tokenizer


def _save_characters(config: PreTrainedConfig, folder: Path) -> None:
    """A CTC vocabulary as Wav2Vec2 has it: vocab.json, no tokenizer.json."""
    letters = iter("|" + string.ascii_uppercase + "'" + string.digits)
    special = {int(config.pad_token_id): "<pad>"}
    for token in ("<s>", "</s>", "<unk>"):
        special[next(free for free in range(5) if free not in special)] = token
    vocabulary = {special.get(index) or next(letters): index for index in range(int(config.vocab_size))}
    _write(folder / "vocab.json", vocabulary)
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|", "do_lower_case": False}
    _write(folder / "tokenizer_config.json", {**settings, **roles})
    _write(folder / "special_tokens_map.json", roles)


def _image_processor(architecture: Architecture, config: PreTrainedConfig) -> dict[str, Any]:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]

    height, width = architecture.image
    named = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type)
    kind = named.get("torchvision") if isinstance(named, dict) else None
    return {
        "image_processor_type": kind or "ViTImageProcessor",
        "do_resize": True,
        "do_center_crop": False,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _feature_extractor(config: PreTrainedConfig) -> dict[str, Any]:
    common = {"sampling_rate": 16000, "padding_value": 0.0, "padding_side": "right"}
    sizes = {name: getattr(config, name, None) for name in ("num_mel_bins", "input_feat_per_channel")}
    match config.model_type:
        case "whisper":
            frames = 2 * config.max_source_positions
            return {
                **common,
                "feature_extractor_type": "WhisperFeatureExtractor",
                "feature_size": config.num_mel_bins,
                "hop_length": 160,
                "n_fft": 400,
                "chunk_length": frames / 100,
                "n_samples": frames * 160,
                "nb_max_frames": frames,
                "return_attention_mask": False,
            }
        case "speech_to_text":
            width = sizes["input_feat_per_channel"]
            kind = "Speech2TextFeatureExtractor"
            return {**common, "feature_extractor_type": kind, "feature_size": width, "num_mel_bins": width}
        case "audio-spectrogram-transformer":
            kind = "ASTFeatureExtractor"
            return {**common, "feature_extractor_type": kind, "feature_size": 1, "num_mel_bins": config.num_mel_bins,
                    "max_length": config.max_length}  # fmt: skip
        case "wav2vec2-bert":
            kind, width = "SeamlessM4TFeatureExtractor", config.feature_projection_input_dim // 2
            return {**common, "feature_extractor_type": kind, "feature_size": width, "num_mel_bins": width, "stride": 2}
        case "parakeet_ctc":
            width = config.encoder_config.num_mel_bins
            return {**common, "feature_extractor_type": "ParakeetFeatureExtractor", "feature_size": width}
    masked = getattr(config, "feat_extract_norm", "group") == "layer"
    return {
        **common,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "do_normalize": True,
        "return_attention_mask": masked,
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
