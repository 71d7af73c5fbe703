"""One row of the zoo: an architecture of transformers with a tiny configuration of its real kind."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 120
POSITIONS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model class, what it is used for, and the sizes that make it tiny."""

    name: str
    """The class of transformers, as config.json's ``architectures`` has it."""
    family: str
    """A key of onnx_fleet.families: ``encoder``, ``decoder``, …"""
    task: str
    """The Hub's pipeline tag."""
    config: Mapping[str, Any]
    """Arguments of the class's own configuration class."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """What its generation_config.json says beside the configuration's own tokens."""
    image: tuple[int, int] = (32, 32)
    """Height and width of the images that it is fed; for families that see."""
    image_tokens: int = 0
    """How many positions of a prompt one image takes; for vision-language models."""

    def build(self) -> PreTrainedModel:
        """The model with seeded weights of unit effect, in evaluation mode, with eager attention. Imports torch."""
        import torch
        import transformers

        from zoo.feeds import feeds
        from zoo.weights import scale, settle

        cls = getattr(transformers, self.name)
        torch.manual_seed(zlib.crc32(self.name.encode()))
        config = cls.config_class(**self.config)
        config._attn_implementation = "eager"
        model: PreTrainedModel = cls(config)
        scale(model)
        model.train(False)
        settle(model, feeds(self, model))
        return model
