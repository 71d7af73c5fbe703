"""Every error of ours is the same error behind a process, a pickle and a record, whatever its class carries."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from fixtures.steps import Raised, raise_it
from onnx_fleet import errors
from onnx_fleet.cli.run import raise_refusal
from onnx_fleet.entities.work_item import Plan, Refusal
from onnx_fleet.errors import CatalogueInvalid, HubRateLimited, OnnxFleetError, StepCrashed
from onnx_fleet.processes import isolation
from onnx_fleet.processes.isolation import Limits

MESSAGE = "catalogue.yaml:3: no such task; write another\ncatalogue.yaml:7: no such licence; remove it"
CLASSES = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, OnnxFleetError)),
    key=lambda kind: kind.__name__,
)
by_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def _steps_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_the_tree_in_the_docstring_has_every_class() -> None:
    assert len(CLASSES) > 20
    assert [kind.__name__ for kind in CLASSES if f"─ {kind.__name__} " not in f"─ {errors.__doc__}"] == [
        "OnnxFleetError"
    ]


@by_class
def test_an_error_is_the_same_behind_a_pickle(kind: type[OnnxFleetError]) -> None:
    found = pickle.loads(pickle.dumps(kind(MESSAGE)))
    assert (type(found), str(found), vars(found)) == (kind, MESSAGE, vars(kind(MESSAGE)))


@by_class
def test_an_error_is_the_same_behind_a_process(kind: type[OnnxFleetError], tmp_path: Path) -> None:
    with pytest.raises(OnnxFleetError) as caught:
        isolation.run(raise_it, Raised(error=kind.__name__, message=MESSAGE), limits=Limits(), log=tmp_path / "log")
    assert (type(caught.value), str(caught.value)) == (kind, MESSAGE)


@by_class
def test_a_refusal_is_raised_as_the_error_that_it_was(kind: type[OnnxFleetError]) -> None:
    refused = Refusal.of("acme/tiny", kind(MESSAGE), step="resolve")
    with pytest.raises(OnnxFleetError) as caught:
        raise_refusal(Plan(items=(), refusals=(refused,)))
    assert (type(caught.value), str(caught.value)) == (kind, MESSAGE)


def test_what_a_class_carries_beside_its_message_comes_along(tmp_path: Path) -> None:
    asked = Raised(error="HubRateLimited", message="later", retry_after_s=7.5)
    with pytest.raises(HubRateLimited) as caught:
        isolation.run(raise_it, asked, limits=Limits(), log=tmp_path / "log")
    assert caught.value.retry_after_s == 7.5


def test_an_error_that_is_not_ours_is_a_crash_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StepCrashed, match="raised LookupError: where"):
        isolation.run(raise_it, Raised(error="Novel", message="where"), limits=Limits(), log=tmp_path / "log")


def test_the_faults_of_a_catalogue_are_the_lines_of_the_message() -> None:
    assert CatalogueInvalid.of(MESSAGE.splitlines()).faults == tuple(MESSAGE.splitlines())
    assert str(CatalogueInvalid.of(["one", "two"])) == "one\ntwo"
