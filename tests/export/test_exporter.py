"""Exports of small real models, looked at as a consumer would: the file, its names, what it computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from fixtures.items import COMMIT, work_item
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import ExportUnsupported, ModelInvalid, WorkerOutOfResources
from onnx_fleet.export import exporter
from onnx_fleet.processes.isolation import Limits
from onnx_fleet_demo.models import CLASSIFIER, FILL_MASK, make_repos

LIMITS = Limits(memory_bytes=6 << 30, timeout_s=240)


@pytest.fixture(scope="session")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repos")
    make_repos(root, repo_ids=(CLASSIFIER, FILL_MASK))
    return root


@pytest.fixture(scope="session")
def classifier(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage of an exported BERT sequence classifier."""
    folder = tmp_path_factory.mktemp("classifier") / "stage"
    item = work_item(repos / CLASSIFIER, task="text-classification")
    exporter.export(Stage(folder, item), source_dir=repos / CLASSIFIER, limits=LIMITS)
    return folder


@pytest.fixture(scope="session")
def save(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make an encoder of another architecture; imports torch."""
    from fixtures.encoders import save_encoder

    root = tmp_path_factory.mktemp("encoders")

    def _save(name: str, **settings: str) -> Path:
        folder = root / "acme" / name
        if not folder.exists():
            save_encoder(folder, tokenizer_from=repos / CLASSIFIER, **settings)
        return folder

    return _save


def _run(folder: Path, ids: list[list[int]], mask: list[list[int]]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(folder / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array(ids), "attention_mask": np.array(mask)}
    if "token_type_ids" in [value.name for value in session.get_inputs()]:
        feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_names_and_axes_are_the_contracts(classifier: Path) -> None:
    (info,) = Stage.open(classifier).read_export().graphs

    tokens = ("batch_size", "sequence_length")
    assert [(value.name, value.dtype, value.shape) for value in info.inputs] == [
        ("input_ids", "int64", tokens),
        ("attention_mask", "int64", tokens),
        ("token_type_ids", "int64", tokens),
    ]
    assert [(value.name, value.dtype, value.shape) for value in info.outputs] == [
        ("logits", "float32", ("batch_size", 6))
    ]
    assert (info.role, info.variant, info.path, info.opset) == ("model", "fp32", "onnx/model.onnx", 20)
    assert info.weight_files == ()
    assert info.onnxruntime_min == "1.18"


def test_the_graph_says_what_it_is_and_nothing_of_the_machine_that_made_it(classifier: Path) -> None:
    path = classifier / "onnx/model.onnx"
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}

    assert metadata == {
        "onnx_fleet.model_id": CLASSIFIER,
        "onnx_fleet.commit": COMMIT,
        "onnx_fleet.task": "text-classification",
    }
    assert b"site-packages" not in path.read_bytes()


def test_padding_does_not_change_a_rows_answer(classifier: Path) -> None:
    alone = _run(classifier, [[2, 300, 301, 3]], [[1, 1, 1, 1]])["logits"]
    padded = _run(classifier, [[2, 300, 301, 3, 0, 0], [2, 9, 8, 7, 6, 3]], [[1, 1, 1, 1, 0, 0], [1] * 6])["logits"]

    np.testing.assert_allclose(padded[:1], alone, atol=1e-5)
    assert np.abs(padded[0] - padded[1]).max() > 1e-2


def test_the_stage_holds_what_consumers_read(classifier: Path) -> None:
    assert {
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "onnx/model.onnx",
    } <= set(Stage.open(classifier).published_files())  # fmt: skip
    assert not [path for path in Stage.open(classifier).published_files() if path.endswith(".safetensors")]


def test_the_same_item_gives_the_same_bytes(classifier: Path, repos: Path, tmp_path: Path) -> None:
    item = work_item(repos / CLASSIFIER, task="text-classification")
    exporter.export(Stage(tmp_path / "again", item), source_dir=repos / CLASSIFIER, limits=LIMITS)

    files = Stage.open(classifier).published_files()
    assert files == Stage.open(tmp_path / "again").published_files()
    for path in files:
        assert (tmp_path / "again" / path).read_bytes() == (classifier / path).read_bytes(), path


@pytest.mark.parametrize(
    ("model_type", "auto_class", "task", "outputs"),
    [
        ("roberta", "AutoModelForTokenClassification", "token-classification", {"logits": (2, 5, 2)}),
        ("electra", "AutoModelForQuestionAnswering", "question-answering",
         {"start_logits": (2, 5), "end_logits": (2, 5)}),
        ("albert", "AutoModelForMaskedLM", "fill-mask", {"logits": (2, 5, 1200)}),
    ],
)  # fmt: skip
def test_every_task_has_its_outputs(
    save: Callable[..., Path],
    tmp_path: Path,
    model_type: str,
    auto_class: str,
    task: str,
    outputs: dict[str, tuple[int, ...]],
) -> None:
    source = save(f"{model_type}-{task}", model_type=model_type, auto_class=auto_class)
    record = exporter.export(Stage(tmp_path / "stage", work_item(source, task=task)), source_dir=source, limits=LIMITS)

    found = _run(tmp_path / "stage", [[2, 5, 6, 7, 3], [2, 9, 3, 1, 1]], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert {name: value.shape for name, value in found.items()} == outputs
    assert record.fallbacks == ()


def test_a_tokenizer_that_loses_token_types_for_a_consumer_is_in_the_record(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    source = save("bert-pairs", model_type="bert", auto_class="AutoModelForSequenceClassification")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "TokenizersBackend"}))
    item = work_item(source, task="text-classification")

    record = exporter.export(Stage(tmp_path / "stage", item), source_dir=source, limits=LIMITS)

    assert [fallback.what for fallback in record.fallbacks] == ["token types in transformers.js -> none"]


def test_a_recipe_adds_its_output_behind_the_familys_own(save: Callable[..., Path], tmp_path: Path) -> None:
    source = save("bert-features", model_type="bert", auto_class="AutoModel")
    item = work_item(source, task="feature-extraction", recipe="mean-normalized")
    exporter.export(Stage(tmp_path / "stage", item), source_dir=source, limits=LIMITS)

    found = _run(tmp_path / "stage", [[2, 5, 6, 3], [2, 3, 0, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert list(found) == ["last_hidden_state", "sentence_embedding"]
    mean = found["last_hidden_state"][1, :2].mean(axis=0)
    np.testing.assert_allclose(found["sentence_embedding"][1], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("opset", [18, 23])
def test_the_opset_is_the_one_asked_for(save: Callable[..., Path], tmp_path: Path, opset: int) -> None:
    source = save("bert-features", model_type="bert", auto_class="AutoModel")
    item = work_item(source, task="feature-extraction", opset=opset)
    record = exporter.export(Stage(tmp_path / "stage", item), source_dir=source, limits=LIMITS)

    assert record.graphs[0].opset == opset
    assert _run(tmp_path / "stage", [[2, 3]], [[1, 1]])["last_hidden_state"].shape == (1, 2, 48)


def test_half_precision_weights_give_a_single_precision_graph(save: Callable[..., Path], tmp_path: Path) -> None:
    source = save("bert-half", model_type="bert", auto_class="AutoModel", dtype="float16")
    exporter.export(
        Stage(tmp_path / "stage", work_item(source, task="feature-extraction")), source_dir=source, limits=LIMITS
    )

    assert _run(tmp_path / "stage", [[2, 3]], [[1, 1]])["last_hidden_state"].dtype == np.float32


def test_a_checkpoint_without_the_tasks_head_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    source = save("bert-features", model_type="bert", auto_class="AutoModel")
    with pytest.raises(ModelInvalid, match=r"no weights for classifier\.bias, classifier\.weight"):
        exporter.export(
            Stage(tmp_path / "stage", work_item(source, task="text-classification")),
            source_dir=source,
            limits=LIMITS,
        )


def test_a_head_without_its_inner_layers_is_refused_too(save: Callable[..., Path], repos: Path, tmp_path: Path) -> None:
    source = tmp_path / "acme" / "holed"
    source.mkdir(parents=True)
    for path in (repos / CLASSIFIER).iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    del tensors["bert.pooler.dense.weight"]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelInvalid, match=r"bert\.pooler\.dense\.weight"):
        exporter.export(
            Stage(tmp_path / "stage", work_item(source, task="text-classification")),
            source_dir=source,
            limits=LIMITS,
        )


def test_an_architecture_that_transformers_does_not_have_for_the_task_is_refused(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    source = save("mobilebert", model_type="bert", auto_class="AutoModel")
    config = source / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "vit"'))
    with pytest.raises(ExportUnsupported, match="set another task") as refused:
        exporter.export(
            Stage(tmp_path / "s", work_item(source, task="question-answering")), source_dir=source, limits=LIMITS
        )
    assert len(str(refused.value)) < 600  # transformers lists every class that it has


def test_a_memory_limit_ends_the_export_and_says_so(repos: Path, tmp_path: Path) -> None:
    item = work_item(repos / CLASSIFIER, task="text-classification")
    with pytest.raises(WorkerOutOfResources, match="more than its limit"):
        exporter.export(
            Stage(tmp_path / "s", item), source_dir=repos / CLASSIFIER, limits=Limits(memory_bytes=100 << 20)
        )
