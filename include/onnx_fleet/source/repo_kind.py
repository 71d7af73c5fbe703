"""The kind of a repo that transformers does not load by itself: told by name, before a weight is downloaded.

It is judged from the file list, the model card and config.json. Messages say what the repo is and what to do instead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from onnx_fleet.conventions import auto_mappings
from onnx_fleet.errors import ExportUnsupported, ModelInvalid

Read = Callable[[str], Mapping[str, object]]
"""The function that reads a JSON file of the repo by its path."""

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """Another way to keep a model."""

    files: tuple[str, ...]
    """The patterns of paths; one of them is enough."""
    what: str
    advice: str


_FROM_PYTORCH = "name the repo with the PyTorch weights that they were made from"
_FORMATS = (
    _Format(files=("*.gguf",), what="GGUF files, which llama.cpp reads", advice=_FROM_PYTORCH),
    _Format(
        files=("consolidated*", "params.json"),
        what="consolidated weights with their params.json, the layout that their authors release",
        advice="name the repo that has them in transformers' layout, or convert them with transformers' own script",
    ),
    _Format(
        files=("*.onnx",), what="ONNX graphs", advice=f"use them as they are, or {_FROM_PYTORCH} to have them proven"
    ),
    _Format(files=("flax_model*",), what="Flax weights", advice=_FROM_PYTORCH),
    _Format(files=("tf_model*", "*saved_model.pb", "*.keras"), what="TensorFlow weights", advice=_FROM_PYTORCH),
    _Format(files=("rust_model.ot",), what="weights for rust-bert", advice=_FROM_PYTORCH),
    _Format(files=("*openvino*.xml",), what="OpenVINO graphs", advice=_FROM_PYTORCH),
    _Format(files=("*.mlmodel", "*.mlpackage/*", "*.mlmodelc/*"), what="Core ML models", advice=_FROM_PYTORCH),
    _Format(files=("*.tflite", "*.litertlm", "*.task"), what="LiteRT models", advice=_FROM_PYTORCH),
    _Format(files=("*.llamafile",), what="llamafiles", advice=_FROM_PYTORCH),
    _Format(files=("*.engine", "*.plan"), what="TensorRT engines", advice=_FROM_PYTORCH),
    _Format(files=("weights*.npz",), what="MLX weights", advice=_FROM_PYTORCH),
    _Format(files=("*.nemo",), what="a NeMo archive", advice="export it with NeMo itself"),
    _Format(files=("pytorch_lora_weights*",), what="a LoRA of a diffusion pipeline", advice="serve it with diffusers"),
    _Format(files=("*.joblib", "*.skops"), what="a scikit-learn model", advice="export it with skl2onnx"),
    _Format(files=("hyperparams.yaml",), what="a SpeechBrain model", advice="serve it with SpeechBrain"),
    _Format(files=("meta.json",), what="a spaCy pipeline", advice="serve it with spaCy"),
)
_QUANTISED = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""The files that quantising packages leave beside the weights, where config.json does not say it."""


def require_transformers(
    paths: Collection[str],
    *,
    read: Read,
    base_models: Sequence[str],
    has_weights: bool,
    library: str | None,
    subject: str,
) -> None:
    """Refuse by name a repo of something else than a model with weights of its own.

    Folders of sentence-transformers that have no config.json at their root are for others to judge.

    Args:
        base_models: the models that the card says this one was made from.
        has_weights: whether a set of weights that transformers loads lies at the root.
        library: the library that loads it, as the Hub says.
    Raises:
        ExportUnsupported: it is an adapter, a diffusion pipeline, quantised, or in another format.
        ModelInvalid: it has no weights, or no config.json.
    """
    root = {path for path in paths if "/" not in path}
    if has_weights and "config.json" in root:
        return
    if "adapter_config.json" in root:
        raise ExportUnsupported(f"{subject}: {_adapter(read('adapter_config.json'))}")
    if "model_index.json" in root:
        raise ExportUnsupported(
            f"{subject}: a pipeline of diffusers (model_index.json), whose parts are models of their own; only models"
            f" of transformers are exported here: remove the entry, and export it with optimum"
        )
    if "modules.json" in root:
        return
    if marks := sorted(root & set(_QUANTISED)):
        raise ExportUnsupported(f"{subject}: {_quantised(marks[0], base_models)}")
    for each in _FORMATS if not has_weights else ():
        if found := sorted(path for path in paths if any(fnmatchcase(path, pattern) for pattern in each.files)):
            raise ExportUnsupported(
                f"{subject}: the repo has only {each.what} ({_listed(found)}); {each.advice}{_base(base_models)}"
            )
    if library not in (None, "transformers", "sentence-transformers", "timm") and "config.json" not in root:
        raise ExportUnsupported(
            f"{subject}: config.json is missing, and the Hub says that {library} loads the repo; only models of"
            f" transformers are exported here: remove the entry"
        )
    if has_weights:
        return
    if folders := sorted({path.split("/")[0] for path in paths if _is_deep_weights(path)}):
        raise ModelInvalid(
            f"{subject}: no weights at the root of the repo, only in {_listed(folders)}; an entry takes a"
            f" whole repo: put the model that is meant at the root of one"
        )


def require_plain_weights(config: Mapping[str, object], *, base_models: Sequence[str], subject: str) -> None:
    """Refuse weights that a package packed into fewer bits.

    Raises:
        ExportUnsupported: config.json says so.
    """
    for said in _settings(config, ("quantization_config", "compression_config")):
        method = said.get("quant_method")
        bits = next((f", {count} bits" for key in ("bits", "w_bit") if isinstance(count := said.get(key), int)), "")
        if not isinstance(method, str):
            method = "bitsandbytes" if said.keys() & {"load_in_4bit", "load_in_8bit"} else "an unnamed method"
        raise ExportUnsupported(f"{subject}: {_quantised(f'{method}{bits}', base_models)}")


def require_packages(config: Mapping[str, object], *, model_type: str, subject: str) -> None:
    """Refuse a model of which a part is another package's, where that is not installed.

    Raises:
        ExportUnsupported: a backbone of timm's.
    """
    if importlib.util.find_spec("timm") is None and (backbone := _timm_backbone(config, model_type)):
        raise ExportUnsupported(
            f"{subject}: its {backbone} is a model of the package timm, which is not installed here; install the extra"
            f" timm on every worker (docs/operations.md says how), or remove the entry"
        )


def may_need_packages(model_type: str) -> bool:
    """Say whether a model type's config.json has to be read to know that no package is missing for it."""
    return importlib.util.find_spec("timm") is None and auto_mappings.mentions(model_type, "timm")


def require_no_timm_repo(config: Mapping[str, object], *, subject: str) -> None:
    """Refuse a repo in timm's own layout, which has ``architecture`` and no class of transformers.

    Raises:
        ExportUnsupported: it is one.
    """
    own = config.get("architecture")
    if isinstance(own, str) and not config.get("architectures") and not config.get("model_type"):
        raise ExportUnsupported(
            f"{subject}: a model of the package timm ({own}), whose repos transformers reads only with timm beside it;"
            f" export it with timm itself (timm.create_model('hf-hub:…', exportable=True)), or take a repo of the same"
            f" model in transformers' layout"
        )


def _adapter(config: Mapping[str, object]) -> str:
    """Say which model an adapter is for, and what to do with it."""
    kind, base, revision = (config.get(key) for key in ("peft_type", "base_model_name_or_path", "revision"))
    at = f"@{revision}" if isinstance(revision, str) and revision else ""
    of = f"{base}{at}" if isinstance(base, str) and base else "a base model that adapter_config.json does not name"
    return (
        f"the repo is only an adapter of {of} (PEFT{f', {kind}' if isinstance(kind, str) else ''}), not a model; merge"
        f" it into its base with PEFT (merge_and_unload), save and upload the whole, and name that repo"
    )


def _quantised(by: str, base_models: Sequence[str]) -> str:
    return (
        f"the weights are quantised ({by}), and a proof begins with the floats that they were made from; name the repo"
        f" with those{_base(base_models)}, and ask for int8 or q4 with variants"
    )


def _base(base_models: Sequence[str]) -> str:
    return f" (the card says {_listed(base_models)})" if base_models else ""


def _settings(config: Mapping[str, object], names: Collection[str]) -> Iterator[Mapping[str, object]]:
    """Iterate over sections of a configuration by name, those of its parts included."""
    for key, value in config.items():
        if isinstance(value, dict):
            if key in names:
                yield value
            else:
                yield from _settings(value, names)


def _timm_backbone(config: Mapping[str, object], model_type: str) -> str | None:
    """Return the part of a model that timm makes; None where there is none."""
    if _is_of_timm(model_type):
        return "class"
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(part := value.get("model_type"), str) and _is_of_timm(part):
            return f"{key} ({value.get('backbone') or value.get('architecture') or part})"
    if config.get("backbone_config") or not auto_mappings.mentions(model_type, "use_timm_backbone"):
        return None
    if config.get("use_timm_backbone", True) is False:
        return None
    return f"backbone ({config.get('backbone') or 'resnet50'})"


def _is_of_timm(model_type: str) -> bool:
    loaded = (*auto_mappings.loads("AutoModel", model_type), *auto_mappings.loads("AutoBackbone", model_type))
    return any(name.startswith("Timm") for name in loaded)


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _is_deep_weights(path: str) -> bool:
    return "/" in path and path.endswith((".safetensors", ".bin", ".pt", ".pth"))
