"""One row of the zoo: an architecture of transformers with a tiny configuration of its real kind."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

VOCABULARY = 120
POSITIONS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model class, what it is used for, and the sizes that make it tiny."""

    name: str
    """The class of transformers, as config.json's ``architectures`` has it."""
    family: str
    """A key of onnx_fleet.source.families: ``encoder``, ``decoder``, …"""
    task: str
    """The Hub's pipeline tag."""
    config: Mapping[str, Any]
    """Arguments of the class's own configuration class."""
    shrunk: bool = False
    """Whether ``config`` is laid over the class's own defaults, made small by zoo.tiny; else it says all by itself."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """What its generation_config.json says beside the configuration's own tokens."""
    image: tuple[int, int] = (32, 32)
    """Height and width of the images that it is fed; for families that see."""
    image_tokens: int = 0
    """How many positions of a prompt one image takes; for vision-language models."""

    @property
    def model_type(self) -> str:
        """What config.json calls it. Imports transformers."""
        import transformers

        return str(getattr(transformers, self.name).config_class.model_type)

    def configuration(self) -> PreTrainedConfig:
        """The tiny configuration. Imports transformers."""
        import transformers

        from zoo.tiny import shrink

        kind = getattr(transformers, self.name).config_class
        if self.shrunk:
            return shrink(kind, self.config, causal=self.family == "decoder")
        made: PreTrainedConfig = kind(**self.config)
        return made

    def build(self) -> PreTrainedModel:
        """The model with seeded weights of unit effect, in evaluation mode, with eager attention. Imports torch."""
        import torch
        import transformers

        from zoo.feeds import feeds
        from zoo.weights import scale, settle

        cls = getattr(transformers, self.name)
        torch.manual_seed(zlib.crc32(self.name.encode()))
        config = self.configuration()
        config._attn_implementation = "eager"
        model: PreTrainedModel = cls(config)
        scale(model)
        model.train(False)
        settle(model, feeds(self, model))
        return model
