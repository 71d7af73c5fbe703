"""Pooling as a source's own files define it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnx_fleet import pooling
from onnx_fleet.pooling import Pooling
from onnx_fleet_demo import models

HIDDEN = np.array([[[1, 2], [3, 6], [9, 9]]], dtype=np.float32)
MASK = np.array([[1, 1, 0]])


@pytest.mark.parametrize(
    ("mode", "embedding"), [("cls", [1, 2]), ("mean", [2, 4]), ("max", [3, 6]), ("lasttoken", [3, 6])]
)
def test_padding_is_in_no_embedding(mode: str, embedding: list[float]) -> None:
    pooled = Pooling(mode=mode, normalised=False).pool(HIDDEN, MASK)

    assert pooled.tolist() == [embedding]
    assert pooled.dtype == np.float32


def test_a_normalised_embedding_has_length_one() -> None:
    pooled = Pooling(mode="mean", normalised=True).pool(HIDDEN, MASK)

    assert np.linalg.norm(pooled) == pytest.approx(1)
    assert pooled[0, 1] == pytest.approx(2 * pooled[0, 0])


def test_a_real_models_files_are_understood() -> None:
    assert pooling.read(models.minilm_folder()) == Pooling(mode="mean", normalised=True)


@pytest.mark.parametrize(
    "kinds", [[], ["Transformer"], ["Transformer", "Pooling", "Dense"], ["WordEmbeddings", "Pooling"]]
)
def test_other_chains_of_modules_are_left_alone(tmp_path: Path, kinds: list[str]) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))

    assert pooling.read(tmp_path) is None


def test_a_model_without_modules_has_no_pooling(tmp_path: Path) -> None:
    assert pooling.read(tmp_path) is None


def test_several_modes_at_once_are_not_computed() -> None:
    assert not Pooling(mode="cls+mean", normalised=False).computable
