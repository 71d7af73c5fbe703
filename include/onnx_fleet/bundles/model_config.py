"""The bundle's config.json: the source's own, completed where a consumer needs it said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_fleet.errors import ExportUnsupported

_TRANSFORMERS_JS = "transformers.js_config"
_EXTERNAL_DATA = "use_external_data_format"


def change_tokenizer(stage: Path, settings: Mapping[str, Any]) -> None:
    """Put a recipe's settings into the packed tokenizer_config.json; the others stay as they are.

    Raises:
        ExportUnsupported: there are settings, and no such file.
    """
    if not settings:
        return
    path = stage / "tokenizer_config.json"
    if not path.exists():
        raise ExportUnsupported(
            f"the recipe changes {', '.join(settings)} in tokenizer_config.json, and the source has none; take the "
            f"settings out of the recipe"
        )
    changed = {**json.loads(path.read_text(encoding="utf-8")), **settings}
    path.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def completion(
    config: Mapping[str, object], *, architecture: str, model_type: str, overrides: bool
) -> dict[str, object]:
    """Return the keys that config.json lacks for transformers to load the class that was decided on.

    Args:
        overrides: whether the entry named the class, which overrules config.json.
    """
    said = config.get("architectures")
    changes: dict[str, object] = {}
    if (overrides and said != [architecture]) or not said:
        changes["architectures"] = [architecture]
    if model_type and config.get("model_type") != model_type:
        changes["model_type"] = model_type
    return changes


def complete_config(stage: Path, *, external_data: Mapping[str, int]) -> None:
    """Write into config.json what transformers.js reads there; every other key stays as it is and where it is.

    ``num_decoder_layers`` is said where a T5-class config leaves it to be the encoder's number. Which graphs have
    their weights beside them is said for WASM, and nothing is said where none has: the key without the file is an
    unhandled rejection there.

    Args:
        external_data: a graph's file name (``encoder_model.onnx``) -> the number of its data files.
    """
    path = stage / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    before = json.dumps(config)
    if config.get("is_encoder_decoder") and "num_layers" in config and config.get("num_decoder_layers") is None:
        config["num_decoder_layers"] = config["num_layers"]
    settings = dict(config.get(_TRANSFORMERS_JS) or {})
    settings.pop(_EXTERNAL_DATA, None)
    if external_data:
        settings[_EXTERNAL_DATA] = dict(sorted(external_data.items()))
    if settings:
        config[_TRANSFORMERS_JS] = settings
    else:
        config.pop(_TRANSFORMERS_JS, None)
    if json.dumps(config) != before:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
