"""What the front matter of a model's README.md declares of its origin: base models, datasets, licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The declarations of a card, as its author wrote them; nobody has checked them."""

    base_models: tuple[str, ...] = ()
    """The ids of the models that this one was made from."""
    datasets: tuple[str, ...] = ()
    """The ids of the datasets that it was trained or evaluated with."""
    licence_name: str | None = None
    """What the card calls a licence that is none of the known ones."""
    licence_link: str | None = None


def read(folder: Path) -> ModelCard:
    """Read the card in a folder; a card that is missing, or whose front matter is broken, declares nothing."""
    from huggingface_hub import metadata_load  # takes 0.3 s, and only a publication needs it
    from yaml import YAMLError

    path = folder / FILE_NAME
    try:
        said: Mapping[str, Any] = metadata_load(path) or {}
    except (OSError, ValueError, YAMLError):
        said = {}
    return ModelCard(
        base_models=_names(said.get("base_model")),
        datasets=_names(said.get("datasets")),
        licence_name=_text(said.get("license_name")),
        licence_link=_text(said.get("license_link")),
    )


def _names(value: object) -> tuple[str, ...]:
    """Return what is a name among what an author wrote, each once and in order."""
    values = value if isinstance(value, list) else [value]
    return tuple(sorted({name for name in map(_text, values) if name}))


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
