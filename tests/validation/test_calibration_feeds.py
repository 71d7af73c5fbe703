"""What a proof feeds to graphs that variants are made of: the entry's own pictures, or what the checks have fed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures.exported import Exported
from fixtures.varied import LOOSE, Varied, vary, wanting
from onnx_fleet.graphs import recorded_feeds


def test_pictures_are_the_entrys_own_where_it_names_some(patches: Exported, photos: Path, tmp_path: Path) -> None:
    """They are fed as the bundle's preprocessor hands them over: resized, between -1 and 1."""
    wanted = wanting("fp16", "int8_static", gates=LOOSE)
    varied = vary(patches.copy(tmp_path), lambda entry: replace(wanted(entry), calibration=str(photos)))

    (half_of_them, others) = (
        list(recorded_feeds.read(varied.stage_dir, "model", half)) for half in ("calibration", "judging")
    )
    assert sum(len(sample.feeds["pixel_values"]) for sample in (*half_of_them, *others)) >= 12
    with Image.open(photos / "00.png") as opened:
        resized = np.asarray(opened.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    expected = (resized / 255 - 0.5) / 0.5
    np.testing.assert_allclose(half_of_them[0].feeds["pixel_values"][0], expected.transpose(2, 0, 1), atol=1e-5)
    assert [verdict.status for verdict in varied.judge().verdicts] == ["published", "published"]


@pytest.mark.parametrize("name", ["pairs", "sights"])
def test_every_graph_that_sees_or_reads_beside_pictures_is_asked(
    name: str, request: pytest.FixtureRequest, photos: Path, tmp_path: Path
) -> None:
    exported: Exported = request.getfixturevalue(name).copy(tmp_path).with_own_source(tmp_path)
    settings = json.loads((exported.stage_dir / "preprocessor_config.json").read_text())
    side = {"longest_edge": 32}  # one tile, in the words that SmolVLM's preprocessor has for a size
    own = {"sights": {"size": side, "max_image_size": side, "do_pad": True}}
    for folder in (exported.source_dir, exported.stage_dir):
        told = {**settings, "do_center_crop": False, **own.get(name, {})}
        (folder / "preprocessor_config.json").write_text(json.dumps(told))

    varied = vary(exported, lambda entry: replace(wanting("fp16", gates=LOOSE)(entry), calibration=str(photos)))

    roles = [graph.role for graph in varied.stage.read_export().graphs if graph.variant == "fp32"]
    for role in roles:
        assert list(recorded_feeds.read(varied.stage_dir, role, "calibration")), role
    (verdict,) = varied.judge().verdicts
    assert verdict.status == "published", verdict.reason


def test_the_halves_of_a_corpus_have_no_sample_in_common(varied_decoder: Varied) -> None:
    halves = [
        {sample.feeds["input_ids"].tobytes() for sample in recorded_feeds.read(varied_decoder.stage_dir, "model", half)}
        for half in ("calibration", "judging")
    ]

    assert all(halves)
    assert not halves[0] & halves[1]
