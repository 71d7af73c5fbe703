"""Vision: one graph, pixels in, classes, features, boxes, segments or depth out. Imports torch and transformers.

Height and width stay open where the architecture is known to be right at any size; elsewhere the graph takes the one
size that the model's preprocessor makes of every image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs import image_inputs
from onnx_fleet.source import checkpoint, preprocessor
from onnx_fleet.source.families import Family, GraphSpec, Shape
from onnx_fleet.source.families.forward import Forward
from onnx_fleet.source.families.loading import load

_PIXELS: Shape = ("batch_size", None, "height", "width")
_PIXEL_MASK: Shape = ("batch_size", "mask_height", "mask_width")
"""The axes of the pixel mask, which has a size of its own: it is scaled to the feature map.

Consumers send 64 x 64 ones for an image of any size.
"""

OUTPUTS: dict[str, dict[str, Shape]] = {
    "image-classification": {"logits": ("batch_size", None)},
    "image-segmentation": {"logits": ("batch_size", None, "output_height", "output_width")},
    "object-detection": {"logits": ("batch_size", None, None), "pred_boxes": ("batch_size", None, None)},
    "depth-estimation": {"predicted_depth": ("batch_size", "output_height", "output_width")},
    "image-to-image": {"reconstruction": ("batch_size", None, "output_height", "output_width")},
}
"""The outputs of each task; those of feature extractors, and some of other tasks, depend on the model."""
_BESIDES = re.compile(r"(?!enc_|intermediate_)\w+_(logits|masks)|pred_boxes|field_of_view")
"""The further outputs that post-processing reads: in what order a page is read, what a mask shows, and where."""

ANY_SIZE = frozenset(
    {
        "conditional_detr", "convnext", "convnextv2", "detr", "dinov2", "dinov3_convnext",
        "efficientnet", "glpn", "poolformer", "regnet", "resnet", "segformer", "table-transformer", "yolos",
    }
)  # fmt: skip
"""The model types whose graphs were proven at sizes that were never traced, odd ones included.

Of those that are not here some pad what does not divide (MobileNet, FocalNet, MobileViT), and some keep the traced
sizes as numbers (Deformable DETR, Depth Anything, DINOv2 with registers): their graphs hold for such sizes only.
"""

_MASKED = frozenset(
    {"conditional_detr", "dab-detr", "deformable_detr", "detr", "lw_detr", "rf_detr", "table-transformer"}
)
"""The detectors that look only where pixel_mask is 1; the others' forward takes one and ignores it."""

_EXAMPLE_BATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The image size at which a model is traced."""

    height: int
    width: int
    fixed: str = ""
    """The reason why the model takes no other size; empty where it takes any."""

    def require(self, pixel_values: Tensor) -> None:
        """Refuse to be traced at any size where the model takes only one.

        Args:
            pixel_values: float32 [batch_size, channels, height, width].
        Raises:
            ValueError: a size is open.
        """
        if self.fixed and not all(isinstance(size, int) for size in pixel_values.shape[2:]):
            raise ValueError(self.fixed)


class Seeing(Forward):
    """A model that sees."""

    def __init__(self, item: WorkItem, model: PreTrainedModel, *, seen: Sight) -> None:
        super().__init__(item, model, outputs=outputs(item, model, seen))
        self.seen = seen

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        self.seen.require(inputs["pixel_values"])
        return super().forward(**inputs)


def whole(item: WorkItem, model: PreTrainedModel) -> Seeing:
    """Return the model with the outputs of its task, and its recipe's."""
    return Seeing(item, model, seen=sight(item, model)).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the one graph of a vision model.

    Raises:
        ExportUnsupported: its outputs are random, or it runs at no size that is known.
    """
    seen = sight(item, model)
    example = {"pixel_values": pixels(model, _EXAMPLE_BATCH, seen)}
    inputs: dict[str, Shape] = {"pixel_values": _PIXELS}
    if model.config.model_type in _MASKED:
        mask = torch.ones(_EXAMPLE_BATCH, seen.height // 2, seen.width // 2, dtype=torch.int64)
        mask[-1, :, -(seen.width // 8) :] = 0
        example["pixel_mask"] = mask
        inputs["pixel_mask"] = _PIXEL_MASK
    module = Seeing(item, model, seen=seen).eval()
    return (
        GraphSpec(
            role="model",
            module=module,
            example_inputs=example,
            inputs=inputs,
            outputs=module.outputs,
            fixable=("height", "width", "output_height", "output_width"),
        ),
    )


def outputs(item: WorkItem, model: PreTrainedModel, seen: Sight) -> dict[str, Shape]:
    """Return the contract's outputs; an axis that follows from the image's size is a number where that is one.

    Raises:
        ExportUnsupported: a feature extractor's outputs change from call to call.
    """
    shapes = OUTPUTS.get(item.model.task) or _features(item, model, seen)
    if item.model.task in OUTPUTS.keys() - {"image-classification"}:
        shapes = _and_besides(model, seen, own=shapes)
    if not seen.fixed:
        return dict(shapes)
    return {name: tuple(axis if axis == "batch_size" else None for axis in shape) for name, shape in shapes.items()}


def _and_besides(model: PreTrainedModel, seen: Sight, *, own: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the task's outputs and those that belong with them; without such outputs, the map that all is read from.

    PP-OCR's detectors return such a map; MaskFormer's kin return classes and masks of queries, not a class per pixel.
    """
    given = {name: found for name, found in _given(model, seen).items() if isinstance(found, Tensor)}
    named = [name for name in given if name in own or _BESIDES.fullmatch(name)]
    if not named:
        return {"last_hidden_state": ("batch_size", None, "output_height", "output_width")}
    shapes: dict[str, Shape] = {name: ("batch_size", *[None] * (given[name].dim() - 1)) for name in named}
    return shapes | {name: own[name] for name in named if len(own.get(name, ())) == given[name].dim()}


def _given(model: PreTrainedModel, seen: Sight) -> Mapping[str, Any]:
    """Return all of the model's outputs for one image."""
    with torch.inference_mode():
        return dict(model(pixel_values=pixels(model, 1, seen), return_dict=True))


def _features(item: WorkItem, model: PreTrainedModel, seen: Sight) -> dict[str, Shape]:
    """Return tokens or a map, and a pooled vector where the model has a trained one."""
    before = torch.get_rng_state()
    first = _given(model, seen)
    if not torch.equal(before, torch.get_rng_state()):
        raise ExportUnsupported(
            f"{item.model.at_commit}: {item.model.architecture} gives other features for one "
            f"image with every call, as masked autoencoders do; take the model that was trained from it"
        )
    is_map = first["last_hidden_state"].dim() == 4
    features: Shape = ("batch_size", None, "output_height", "output_width")
    found: dict[str, Shape] = {"last_hidden_state": features if is_map else ("batch_size", "sequence_length", None)}
    pooled = first.get("pooler_output")
    if pooled is not None and _has_trained_pooler(model):
        found["pooler_output"] = ("batch_size", *[None] * (pooled.dim() - 1))
    return found


def sight(item: WorkItem, model: PreTrainedModel, *, see: Callable[..., object] | None = None) -> Sight:
    """Return the size to trace a model at: one of its own where any is right, else the one that its images have.

    Args:
        see: the function that takes pixel_values, where it is not the model itself.
    Raises:
        ExportUnsupported: it runs at none.
    """
    config, see = model.config, see or model
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", config.model_type)
    if {config.model_type, backbone} <= ANY_SIZE:
        unit = image_inputs.unit(config)
        seen = Sight(height=4 * unit, width=5 * unit)  # neither equal nor the size that position tables have
        if _runs(see, pixels(model, 1, seen)):
            return seen
    source = Path(str(model.name_or_path))
    known = (
        image_inputs.size_of_preprocessor(preprocessor.settings(source)),
        image_inputs.size_of_config(config),
        (image_inputs.USUAL_SIZE, image_inputs.USUAL_SIZE),
    )
    for size in dict.fromkeys(size for size in known if size is not None):
        reason = (
            f"{config.model_type} is right at one image size only, and its images have {size[0]} x {size[1]} pixels"
        )
        seen = Sight(height=size[0], width=size[1], fixed=reason)
        if _runs(see, pixels(model, 1, seen)):
            return seen
    raise ExportUnsupported(
        f"{item.model.at_commit}: {item.model.architecture} runs at none of the image sizes that "
        f"its preprocessor_config.json and config.json name; correct them"
    )


def pixels(model: PreTrainedModel, count: int, seen: Sight) -> Tensor:
    """Make images of the size that the model is traced at: float32 [count, channels, height, width]."""
    channels = getattr(model.config, "num_channels", None) or 3
    made = image_inputs.batch(
        count, channels=channels, size=(seen.height, seen.width), seed=0, kind="noise", settings={}
    )
    return torch.from_numpy(made)


def _runs(see: Callable[..., object], pixel_values: Tensor) -> bool:
    try:
        with torch.inference_mode():
            see(pixel_values=pixel_values, return_dict=True)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    return True


def _has_trained_pooler(model: PreTrainedModel) -> bool:
    """Say whether the pooler was trained: a bare model from a classifier's checkpoint has one of random weights."""
    own = any("pooler." in name for name, _ in model.named_parameters())
    return not own or any("pooler." in name for name in checkpoint.read(Path(str(model.name_or_path))))


FAMILY = Family(name="vision", load=load, whole=whole, graphs=graphs)
