"""What is no model that can be exported is refused by what it is, before a byte of its weights has come."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping

import pytest

from fixtures.models import RepoMaker
from onnx_fleet.entities.entry import Entry
from onnx_fleet.errors import ExportUnsupported, ModelInvalid, OnnxFleetError
from onnx_fleet.source import repo_kind
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.resolve import resolve
from onnx_fleet_demo.hub_server import HubServer

WITHOUT_TIMM = importlib.util.find_spec("timm") is None
_BASE = "---\nlicense: mit\nbase_model: acme/floats\n---\n"


def _serve(maker: RepoMaker, repo_id: str, files: Mapping[str, object]) -> str:
    """A repo with these files and no others: JSON of what is no text."""
    for path, content in files.items():
        target = maker.root / repo_id / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content))
    return repo_id


_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
_LORA = {"peft_type": "LORA", "base_model_name_or_path": "acme/base", "revision": "v2"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"adapter_config.json": _LORA, "adapter_model.safetensors": "x"},
            r"only an adapter of acme/base@v2 \(PEFT, LORA\), .*merge it into its base with PEFT \(merge_and_unload\)",
        ),
        ({"adapter_config.json": {}, "config.json": _LLAMA}, "an adapter of a base model that .* does not name"),
        ({"model_index.json": {}, "unet/diffusion_pytorch_model.safetensors": "x"}, "a pipeline of diffusers"),
        (
            {"tiny-q4.gguf": "GGUF", "README.md": _BASE},
            r"only GGUF files, which llama\.cpp reads \(tiny-q4\.gguf\); .*\(the card says acme/floats\)",
        ),
        ({"a.gguf": "x", "b.gguf": "x", "c.gguf": "x", "d.gguf": "x"}, r"\(a\.gguf, b\.gguf, c\.gguf and 1 more\)"),
        ({"config.json": _LLAMA, "tiny-q4.gguf": "GGUF"}, "only GGUF files"),
        ({"config.json": _LLAMA, "bf16/tiny.gguf": "GGUF"}, "only GGUF files"),
        ({"a.weights": "x", "README.md": "---\nlibrary_name: keras\n---\n"}, "is missing, .* says that keras loads"),
        ({"a.gguf": "x", "README.md": "---\nlibrary_name: gguf\n---\n"}, "only GGUF files"),
        ({"config.json": _LLAMA, "ner.nemo": "x"}, "only a NeMo archive"),
        ({"params.json": {}, "consolidated.safetensors": "x"}, "consolidated weights with their params.json"),
        ({"params.json": {}, "consolidated.00.pth": "x"}, "consolidated weights with their params.json"),
        (
            {"config.json": _LLAMA, "onnx/model.onnx": "x"},
            r"only ONNX graphs \(onnx/model\.onnx\); use them as they are",
        ),
        ({"config.json": _LLAMA, "flax_model.msgpack": "x"}, "only Flax weights"),
        ({"config.json": _LLAMA, "tf_model.h5": "x"}, "only TensorFlow weights"),
        ({"config.json": _LLAMA, "openvino_model.xml": "x"}, "only OpenVINO graphs"),
        (
            {"config.json": _LLAMA, "quantize_config.json": {}, "gptq-4bit.safetensors": "x"},
            r"quantised \(quantize_con",
        ),
        (
            {"config.json": {"architecture": "resnet18", "pretrained_cfg": {}}, "model.safetensors": "x"},
            r"a model of the package timm \(resnet18\).*timm\.create_model",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "+".join(value),
)
def test_what_is_no_model_is_said_by_name(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker, files: Mapping[str, object], words: str
) -> None:
    repo = _serve(repo_maker, "acme/other", files)
    with pytest.raises(ExportUnsupported, match=rf"^acme/other@\w{{8}}: .*{words}"):
        resolve(Entry(repo_id=repo), hub=hub)
    assert {each.path for each in hub_server.log.asked if each.path} <= {"config.json", "adapter_config.json"}


def test_weights_in_folders_alone_are_told_from_none(hub: Hub, repo_maker: RepoMaker) -> None:
    files = {"config.json": _LLAMA, "checkpoint-500/model.safetensors": "x", "last/pytorch_model.bin": "x"}
    with pytest.raises(
        ModelInvalid, match=r"no weights at the root of the repo, only in checkpoint-500, last; an entry"
    ):
        resolve(Entry(repo_id=_serve(repo_maker, "acme/folders", files)), hub=hub)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq, 4 bits\)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}, r"quantised \(awq, 4 bits\)"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\)"),
        ({"quantization_config": {"load_in_4bit": True}}, r"quantised \(bitsandbytes\)"),
        ({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}}, r"quantised \(mxfp4\)"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, r"quantised \(compressed-tensors\)"),
        ({"quantization_config": {}}, r"quantised \(an unnamed method\)"),
    ],
)
def test_quantised_weights_are_named_with_what_they_were_made_from(
    hub: Hub, repo_maker: RepoMaker, config: dict[str, object], words: str
) -> None:
    with pytest.raises(ExportUnsupported, match=words):
        repo_kind.require_plain_weights(config, base_models=(), subject="acme/packed")
    if "quantization_config" in config:  # the Hub tells of it, and of no other key
        repo = repo_maker.with_config("acme/packed", **config)
        (repo_maker.root / repo / "README.md").write_text(_BASE)
        with pytest.raises(
            ExportUnsupported, match=rf"{words}, .*\(the card says acme/floats\), and ask for int8 or q4"
        ):
            resolve(Entry(repo_id=repo), hub=hub)


def test_whole_numbers_among_the_weights_are_looked_into(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    """The Hub counts tensors by their types: packed ones are integers, and so are some models' own tables."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    repo = repo_maker.sound("acme/numbers")
    weights = repo_maker.root / repo / "model.safetensors"
    save_file({**load_file(weights), "table": np.zeros(3, np.int32)}, weights)
    assert resolve(Entry(repo_id=repo), hub=hub)
    assert hub_server.log.counts() == {"info": 1, "file-head": 1, "file-get": 1}


@pytest.mark.skipif(not WITHOUT_TIMM, reason="timm is installed")
@pytest.mark.parametrize(
    ("changes", "backbone"),
    [
        ({"use_timm_backbone": True, "backbone": "resnet50", "backbone_config": None}, r"backbone \(resnet50\)"),
        ({"backbone": "resnet101"}, r"backbone \(resnet101\)"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18"}}, r"backbone_config \(resnet18\)"),
        ({"use_timm_backbone": False, "backbone_config": {"model_type": "resnet"}}, None),
        ({"backbone_config": {"model_type": "resnet"}}, None),
    ],
)
def test_a_backbone_of_a_package_that_is_not_here_is_named_at_once(
    hub: Hub, repo_maker: RepoMaker, changes: dict[str, object], backbone: str | None
) -> None:
    config = {"architectures": ["DetrForObjectDetection"], "model_type": "detr", **changes}
    repo = repo_maker.with_files({"config.json": json.dumps(config).encode()}, repo_id="acme/boxes")
    (repo_maker.root / repo / "preprocessor_config.json").write_text("{}")
    entry = Entry(repo_id=repo, task="object-detection")
    if backbone is None:
        assert resolve(entry, hub=hub).architecture == "DetrForObjectDetection"
        return
    with pytest.raises(ExportUnsupported, match=rf"its {backbone} is a model of the package timm.*extra timm"):
        resolve(entry, hub=hub)


@pytest.mark.skipif(not WITHOUT_TIMM, reason="timm is installed")
def test_timms_own_classes_need_it_too(hub: Hub, repo_maker: RepoMaker) -> None:
    config = {"architectures": ["TimmWrapperForImageClassification"], "model_type": "timm_wrapper"}
    repo = repo_maker.with_files({"config.json": json.dumps(config).encode()}, repo_id="acme/wrapped")
    (repo_maker.root / repo / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ExportUnsupported, match="its class is a model of the package timm"):
        resolve(Entry(repo_id=repo, task="image-classification"), hub=hub)


def test_folders_of_sentence_transformers_are_for_their_own_rules() -> None:
    paths = ("modules.json", "0_Transformer/config.json", "0_Transformer/model.safetensors")
    try:
        repo_kind.require_transformers(
            paths, read=lambda _: {}, base_models=(), has_weights=False, library="x", subject="a/b"
        )
    except OnnxFleetError as err:
        pytest.fail(f"not for this rule: {err}")
