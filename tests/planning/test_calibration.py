"""What calibrates variants: an entry's own texts or pictures, of the kind that its model takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from onnx_fleet.errors import ModelInvalid
from onnx_fleet.planning import compatibility
from onnx_fleet.planning.calibration import source as calibration_source
from onnx_fleet.planning.calibration import texts


def test_another_picture_is_another_calibration(photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    before = calibration_source.digest("photos", root=tmp_path)

    (folder / "00.png").write_bytes((folder / "02.png").read_bytes())

    assert before is not None
    assert calibration_source.digest("photos", root=tmp_path) not in (None, before)
    assert calibration_source.digest("missing", root=tmp_path) is None


def test_a_folder_that_cannot_calibrate_is_a_fault_of_the_catalogue(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    assert calibration_source.fault("photos", root=tmp_path) is None

    (folder / "03.jpg").write_bytes((folder / "03.jpg").read_bytes()[:200])

    assert "contains no pictures; put .png" in str(calibration_source.fault("empty", root=tmp_path))
    assert "03.jpg cannot be read" in str(calibration_source.fault("photos", root=tmp_path))


@pytest.mark.parametrize(
    ("name", "task", "fault"),
    [
        ("corpora/reviews.txt", "text-classification", None),
        ("corpora/photos", "image-classification", None),
        ("corpora/photos", "image-text-to-text", None),
        ("corpora/reviews.txt", "image-classification", "is text, and image-classification is tuned with pictures"),
        ("corpora/photos", "fill-mask", "is no text, which fill-mask is tuned with; name a .txt or .jsonl file"),
        ("corpora/photos", "audio-classification", "is not for audio-classification, which is tuned with what its"),
    ],
)
def test_what_calibrates_is_of_the_kind_that_the_model_takes(name: str, task: str, fault: str | None) -> None:
    found = compatibility.calibration_misfit(name, task=task)

    assert found is None if fault is None else fault in str(found)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plain.txt", "one text\n\nanother text\n", ("one text", "another text")),
        ("records.jsonl", '{"text": "one text", "label": 3}\n{"text": "another text"}\n', ("one text", "another text")),
    ],
)
def test_texts_are_the_fleets_own_where_it_has_some(
    name: str, content: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")

    assert texts.of(name, root=tmp_path) == expected
    assert texts.of(None) == texts.LINES
    assert texts.digest(name, root=tmp_path) is not None
    assert texts.digest("missing.txt", root=tmp_path) is None


def test_a_calibration_file_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text(json.dumps({"label": 1}))

    with pytest.raises(ModelInvalid, match="the key 'text'"):
        texts.of("labels.jsonl", root=tmp_path)
