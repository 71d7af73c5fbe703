"""Parts that the export and the reference lose alike: graphs and reference agree, and both are another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import transformers
from onnx import ModelProto, TensorProto, helper
from safetensors.torch import load_file, save_file

from mutations.mutation import change_graph, of_stage
from mutations.surgery import change_weight, insert_before
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.graphs import description
from onnx_fleet.source import reference
from onnx_fleet.source.reference import Reference

_TABLE = "embeddings.word_embeddings.weight"


def input_forgotten(stage_dir: Path) -> None:
    """The graph takes no token types, and the export recorded that as right: every token belongs to sentence A."""
    _change(stage_dir, _without_token_types)


def projection_forgotten(stage_dir: Path) -> None:
    """Graph and reference are CLIP's bare text model: the projection of the source's own class is in neither."""
    _change(stage_dir, _without_projection)


def tensor_forgotten(stage_dir: Path) -> None:
    """The source's checkpoint has a layer for which neither the export nor the reference has a place."""


def tensor_made_up(stage_dir: Path) -> None:
    """Graph and reference have the same table of words, and it is not the one of the source's checkpoint."""
    _change(stage_dir, lambda model: change_weight(model, _TABLE, lambda table: _made_up(table.shape).numpy()))


def class_of_another_model(stage_dir: Path) -> None:
    """config.json names another class of transformers than the one that export and reference loaded."""
    item = Stage.open(stage_dir).item
    named = replace(item.model, architecture="BertForMultipleChoice")
    Stage.make(stage_dir, replace(item, model=named))


def _without_token_types(model: ModelProto) -> None:
    first = next(node for node in model.graph.node if "token_type_ids" in node.input)
    shape = helper.make_node("Shape", ["input_ids"], ["shape_of_tokens"])
    zeros = helper.make_node("ConstantOfShape", ["shape_of_tokens"], ["all_a"])
    zeros.attribute.append(helper.make_attribute("value", helper.make_tensor("a", TensorProto.INT64, [1], [0])))
    for node in model.graph.node:
        node.input[:] = ["all_a" if name == "token_type_ids" else name for name in node.input]
    insert_before(model, first, [shape, zeros])
    model.graph.input.remove(next(value for value in model.graph.input if value.name == "token_type_ids"))


def _without_projection(model: ModelProto) -> None:
    model.graph.output.remove(next(value for value in model.graph.output if value.name == "text_embeds"))


def _bare(item: WorkItem, *, source_dir: Path) -> Reference:
    """As any loader does that takes a model's class from its configuration alone."""
    model = transformers.CLIPTextModel.from_pretrained(
        source_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.name_or_path = str(source_dir)
    return reference.of(item, model)


def _with_a_table_of_its_own(item: WorkItem, *, source_dir: Path) -> Reference:
    """As a loader does that takes a tensor for missing, and makes it up."""
    found = reference.load(item, source_dir=source_dir)
    table = found.model.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(_made_up(tuple(table.shape)))
    return found


def _made_up(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def _with_one_more(source_dir: Path) -> None:
    path = source_dir / "model.safetensors"
    save_file({**load_file(path), "linear.weight": torch.ones(8, 48)}, path, metadata={"format": "pt"})


def _change(stage_dir: Path, change: Callable[[ModelProto], None]) -> None:
    """A graph that is changed, and recorded as it is then."""
    path = stage_dir / "onnx" / "model.onnx"
    change_graph(path, change)
    found = description.describe(path, role="model", variant="fp32", bundle=stage_dir)
    stage = Stage.open(stage_dir)
    stage.write_export(replace(stage.read_export(), graphs=(found,)))


_questions = partial(of_stage, model="questions", family="encoder", check="whole_model")
_projected = partial(of_stage, model="projected", family="encoder", check="whole_model")

MUTATIONS = (
    _questions(input_forgotten, finding="missing"),
    _questions(tensor_forgotten, finding="missing", source=_with_one_more),
    _questions(tensor_made_up, load=_with_a_table_of_its_own),
    _questions(class_of_another_model),
    _projected(projection_forgotten, finding="missing", load=_bare),
)
