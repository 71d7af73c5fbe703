"""Recipes: every one that docs/recipes.md shows does what the page says, on a real model; faulty ones are refused."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from fixtures import recipes as page
from fixtures.recipes import Proven, page_entries, recipe_file
from onnx_fleet import recipes
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry, Tolerances
from onnx_fleet.errors import CatalogueInvalid, ExportUnsupported, ValidationFailed
from onnx_fleet.export import exporter
from onnx_fleet.graphs import inspection
from onnx_fleet.graphs.session import open_session
from onnx_fleet.measurement.footprint import FootprintRequest, take
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.recipes import RECIPES, Recipe
from onnx_fleet.source import families
from onnx_fleet.validation import validator

PAGE = page.PAGE.read_text(encoding="utf-8")
FOLDER = Path(__file__).parents[2] / "include/recipes"
IDS = np.array([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
FEEDS = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros_like(IDS)}
OUTPUTS = {
    "first-token": ["last_hidden_state", "sentence_embedding"],
    "two-layers": ["last_hidden_state", "hidden_state_1", "hidden_state_2"],
    "answer-ends": ["start_probabilities", "end_probabilities"],
    "scores": ["scores"],
    "swish": ["last_hidden_state"],
    "waves": ["last_hidden_state"],
    "inverse": ["last_hidden_state"],
    "branching": ["last_hidden_state"],
    "short-texts": ["last_hidden_state"],
}


def _run(proven: Proven, ids: np.ndarray = IDS) -> dict[str, np.ndarray]:
    (info,) = proven.record.graphs
    session = open_session(proven.graph, threads=1, libraries=info.libraries)
    return session.run({**FEEDS, "input_ids": ids})


def _ops(proven: Proven) -> list[str]:
    (view,) = inspection.inspect(proven.stage_dir).graphs
    return list(view.ops)


# What the page shows


def test_the_page_shows_every_file_as_it_is() -> None:
    shown = re.findall(r"```python\n# include/recipes/(\S+)\n(.*?)```", PAGE, re.DOTALL)

    assert dict(shown) == {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}


def test_the_pages_catalogue_has_every_recipe_that_can_be_exported() -> None:
    assert {entry.recipe for entry in page_entries().values()} == {*recipes.names_of_files()} - {
        "recipes.branching:as_written"
    }
    assert set(OUTPUTS) == set(page_entries())


def test_the_page_names_every_built_in_recipe_and_every_field() -> None:
    assert [name for name in (*RECIPES, *Recipe.__dataclass_fields__) if f"`{name}" not in PAGE] == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_recipes_graph_equals_pytorch_and_has_the_outputs_it_says(
    proven: Callable[[str], Proven], name: str
) -> None:
    found = proven(name)

    assert found.report.passed, found.report.reason
    assert [spec.name for spec in found.record.graphs[0].outputs] == OUTPUTS[name]
    assert found.record.fallbacks == ()
    assert found.record.recipe_digest == recipes.digest(str(page_entries()[name].recipe))


# Outputs


def test_the_first_token_by_hand_is_what_cls_gives(proven: Callable[[str], Proven]) -> None:
    import torch

    found = proven("first-token")
    item = found.stage.item
    built_in = replace(item, model=replace(item.model, entry=replace(item.model.entry, recipe="cls")))
    family = families.family("encoder")
    whole = family.whole(built_in, family.load(built_in, found.source_dir, None))
    with torch.inference_mode():
        expected = whole(**{name: torch.from_numpy(array) for name, array in FEEDS.items()})

    given = _run(found)
    np.testing.assert_allclose(given["sentence_embedding"], expected["sentence_embedding"].numpy(), atol=1e-5)
    np.testing.assert_array_equal(given["sentence_embedding"], given["last_hidden_state"][:, 0])


def test_chosen_layers_are_the_models_own(proven: Callable[[str], Proven]) -> None:
    given = _run(proven("two-layers"))

    np.testing.assert_array_equal(given["hidden_state_2"], given["last_hidden_state"])
    assert np.abs(given["hidden_state_1"] - given["hidden_state_2"]).max() > 0.1


def test_added_outputs_stand_for_those_that_are_dropped(proven: Callable[[str], Proven]) -> None:
    given = _run(proven("answer-ends"))

    assert len(given) == 2
    for probabilities in given.values():
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert probabilities[1, 3:].max() == 0


def test_the_opset_of_an_entry_with_a_recipe_is_the_one_asked_for(proven: Callable[[str], Proven]) -> None:
    assert [proven(name).record.graphs[0].opset for name in ("swish", "scores", "waves")] == [18, 23, 20]


# Layers


def test_an_operator_of_ones_own_is_written_in_onnx(proven: Callable[[str], Proven]) -> None:
    found = proven("swish")

    assert {entry.domain for entry in onnx.load(found.graph, load_external_data=False).opset_import} <= {"", "ai.onnx"}
    assert "Sigmoid" in _ops(found)
    assert "Erf" not in _ops(found)


def test_another_positional_encoding_is_in_the_graph(proven: Callable[[str], Proven]) -> None:
    found = proven("waves")

    assert {"Sin", "Cos"} <= set(_ops(found))
    names = {tensor.name for tensor in onnx.load(found.graph, load_external_data=False).graph.initializer}
    assert not any("position_embeddings.weight" in name for name in names)


def test_an_operator_of_a_library_is_recorded_loaded_and_named(proven: Callable[[str], Proven]) -> None:
    found = proven("inverse")
    graphs = found.stage.read_export().graphs

    assert graphs[0].libraries == ("onnxruntime_extensions",)
    (view,) = inspection.inspect(found.stage_dir).graphs
    assert any("ai.onnx.contrib.Inverse" in warning for warning in view.warnings)
    request = FootprintRequest(
        stage_dir=found.stage_dir, graphs=graphs, provider="cpu", threads=1, batch_size=1, sequence_length=4
    )
    assert take(request).load_time_s > 0


def test_a_consumer_registers_the_library_by_the_pages_line(proven: Callable[[str], Proven]) -> None:
    (line,) = re.findall(r"```python\n(options\..*?)\n```", PAGE)
    options = onnxruntime.SessionOptions()
    exec(line, {"options": options, "onnxruntime_extensions": importlib.import_module("onnxruntime_extensions")})
    session = onnxruntime.InferenceSession(proven("inverse").graph, options, providers=["CPUExecutionProvider"])

    assert session.run(None, FEEDS)[0].shape == (2, 5, 48)


def test_a_missing_library_is_a_finding_that_says_what_to_install(
    proven: Callable[[str], Proven], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = proven("inverse")
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)

    with pytest.raises(ValidationFailed, match="run: pip install onnxruntime_extensions"):
        _run(found)


# Branches


def test_both_ways_of_a_branch_are_in_the_graph(proven: Callable[[str], Proven]) -> None:
    found = proven("branching")
    (view,) = inspection.inspect(found.stage_dir).graphs
    marked = IDS.copy()
    marked[0, 1] = 41

    assert (view.ops["If"], view.subgraphs) == (1, 2)
    moved = np.abs(_run(found, marked)["last_hidden_state"] - _run(found)["last_hidden_state"]).max(axis=(1, 2))
    assert moved[0] > 0.1
    assert moved[1] == 0


def test_a_branching_model_is_proven_on_inputs_of_each_way(proven: Callable[[str], Proven]) -> None:
    rows = [row for row in proven("branching").report.rows if row.check == "recipe_cases"]

    assert [row.case.partition(",")[0] for row in rows] == [
        "no row is marked",
        "one row is marked",
        "every token is marked",
    ]


def test_a_graph_that_lost_a_way_fails_on_the_inputs_that_take_it(
    proven: Callable[[str], Proven], tmp_path: Path
) -> None:
    found = proven("branching")
    copy = tmp_path / "stage"
    shutil.copytree(found.stage_dir, copy)
    model = onnx.load(copy / "onnx/model.onnx")
    (branch,) = (node for node in model.graph.node if node.op_type == "If")
    bodies = {attribute.name: attribute for attribute in branch.attribute}
    bodies["then_branch"].g.CopyFrom(bodies["else_branch"].g)
    onnx.save(model, copy / "onnx/model.onnx")

    report = validator.validate(Stage.open(copy), source_dir=found.source_dir)

    failed = {row.case.partition(",")[0] for row in report.rows if row.check == "recipe_cases" and not row.passed}
    assert failed == {"one row is marked", "every token is marked"}


def test_a_branch_in_python_is_refused_by_its_line(export_entry: Callable[[Entry], Proven]) -> None:
    entry = Entry(repo_id="acme/as-written", task="feature-extraction", recipe="recipes.branching:as_written")

    with pytest.raises(ExportUnsupported) as refused:
        export_entry(entry)

    (quoted,) = re.findall(r"at (branching\.py, line \d+, in forward: if marked\.any\(\):)", PAGE)
    assert quoted in str(refused.value)


# Settings


def test_tokenizer_settings_are_packed_and_clip_what_is_fed(proven: Callable[[str], Proven]) -> None:
    found = proven("short-texts")
    packed = json.loads((found.stage_dir / "tokenizer_config.json").read_text())
    source = json.loads((found.source_dir / "tokenizer_config.json").read_text())

    assert packed == {**source, "model_max_length": 32, "padding_side": "left"}
    lengths = [int(size) for row in found.report.rows for size in re.findall(r"sequence_length (\d+)", row.case)]
    assert max(lengths) == 32


def test_an_entrys_tolerances_are_the_ones_applied(proven: Callable[[str], Proven], tmp_path: Path) -> None:
    rows = [row for row in proven("inverse").report.rows if row.check == "parity"]

    assert page_entries()["inverse"].tolerances == Tolerances(atol=2e-4)
    assert {row.atol for row in rows} == {2e-4}


# A fleet owner's own files


FAULTY = """
from dataclasses import replace

import torch

from onnx_fleet.recipes import Recipe
from recipes.branching import in_one_graph
from transformers.models.bert.modeling_bert import BertEmbeddings


class _Short(BertEmbeddings):
    def forward(self, input_ids=None, **others):
        hidden = super().forward(input_ids=input_ids, **others)
        if input_ids.shape[1] > 4:
            hidden = hidden.tanh()
        return hidden


class _Unknown(torch.nn.Module):
    def forward(self, x):
        return torch.ops.fleet_tests.twice(x)


@torch.library.custom_op("fleet_tests::twice", mutates_args=())
def _twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


_twice.register_fake(torch.empty_like)


def _shorten(model):
    model.base_model.embeddings.__class__ = _Short


def _put_unknown(model):
    model.base_model.encoder.layer[0].intermediate.intermediate_act_fn = _Unknown()


size = Recipe(summary="branches on a size", prepare=_shorten)
unknown = Recipe(summary="an operator without a translation", prepare=_put_unknown)
absent = Recipe(summary="drops what is not there", drop=("pooler_output",))
nothing: Recipe = Recipe(summary="leaves nothing", drop=("last_hidden_state",))
undeclared = Recipe(summary="gives more than it says", head=lambda inputs, outputs: {"more": inputs["input_ids"]})
unproven = replace(in_one_graph, cases=None)
example = Recipe(summary="an example of another model", example=lambda inputs: {"pixels": inputs["input_ids"]})
"""


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet owner's own recipes/, beside the examples."""
    folder = tmp_path / "own" / "recipes"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Entry]]:
    """Entries with the recipes of a faulty file."""
    with recipe_file(tmp_path_factory.mktemp("faulty"), "faulty", FAULTY):
        yield lambda name: Entry(repo_id=f"acme/{name}", task="feature-extraction", recipe=f"recipes.faulty:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("size", r"would hold for sequence_length > 4 only; at faulty\.py, line 14, in forward: if input_ids\.shape"),
        ("unknown", r"fleet_tests.*twice"),
        ("absent", "drops or renames pooler_output, and the task's outputs are last_hidden_state"),
        ("nothing", "leaves the outputs none"),
        ("undeclared", "head returns more, and its outputs declare nothing"),
        (
            "unproven",
            r"has a branch \(If\), and the recipe names no cases .*; give the recipe cases: inputs to be proven",
        ),
        ("example", "example has pixels, and the graph takes input_ids"),
    ],
)
def test_a_faulty_recipe_is_refused_with_what_is_wrong(
    export_entry: Callable[[Entry], Proven], faulty: Callable[[str], Entry], name: str, message: str
) -> None:
    with pytest.raises(ExportUnsupported, match=message):
        export_entry(faulty(name))


def test_outputs_of_a_model_with_a_cache_cannot_be_changed(own_folder: Path, tmp_path: Path) -> None:
    from fixtures.items import work_item
    from onnx_fleet.export.exporter import ExportRequest
    from zoo.decoder import DECODERS
    from zoo.repo import save

    (own_folder / "decoding.py").write_text(
        "from onnx_fleet.recipes import Recipe\nscores = Recipe(summary='', rename={'logits': 'scores'})\n"
    )
    source = tmp_path / "acme" / "gpt2"
    save(DECODERS[0], source)
    item = work_item(source, task="text-generation", recipe="recipes.decoding:scores")
    Stage.make(tmp_path / "stage", item)

    with pytest.raises(ExportUnsupported, match="which needs a model of one graph and one pass"):
        exporter.fill(ExportRequest(source_dir=source, stage=Stage(tmp_path / "stage", item)))


def test_a_file_is_read_and_not_run_to_find_its_recipes(own_folder: Path) -> None:
    (own_folder / "exploding.py").write_text("raise SystemExit\nboom = Recipe()\n_private = Recipe()\nlimit = 3\n")

    assert recipes.fault("recipes.exploding:boom") is None
    assert [name for name in recipes.names_of_files() if "exploding" in name] == ["recipes.exploding:boom"]
    assert recipes.fault("recipes.exploding:bang") == (
        "recipe 'recipes.exploding:bang': exploding.py assigns no bang; its names are boom"
    )
    assert "there is no recipes/absent.py" in str(recipes.fault("recipes.absent:boom"))
    assert "recipe 'meen' is not known" in str(recipes.fault("meen"))


def test_an_object_that_is_no_recipe_is_refused(own_folder: Path) -> None:
    (own_folder / "mistaken.py").write_text("limit = int(3)\n")

    with pytest.raises(CatalogueInvalid, match=r"mistaken\.py has no Recipe named limit"):
        recipes.find("recipes.mistaken:limit")


def test_the_digest_is_of_the_file_and_of_those_that_it_imports(own_folder: Path) -> None:
    (own_folder / "shared.py").write_text("SIZE = 1\n")
    (own_folder / "alone.py").write_text("one = Recipe()\n")
    (own_folder / "sharing.py").write_text("from recipes import shared\none = Recipe()\n")

    assert recipes.digest("mean") is None
    assert recipes.digest("recipes.alone:one") == hashlib.sha256(b"one = Recipe()\n").hexdigest()
    before = recipes.digest("recipes.sharing:one")
    (own_folder / "shared.py").write_text("SIZE = 2\n")
    assert recipes.digest("recipes.sharing:one") != before


def test_a_worker_with_another_file_than_the_plan_had_exports_nothing(
    proven: Callable[[str], Proven], tmp_path: Path
) -> None:
    found = proven("swish")
    item = replace(found.stage.item, recipe_digest="0" * 64)

    with pytest.raises(ExportUnsupported, match=r"put the same recipes/ on every worker"):
        exporter.export(Stage(tmp_path / "stage", item), source_dir=found.source_dir, limits=Limits(timeout_s=240))
    assert not (tmp_path / "stage").exists()
