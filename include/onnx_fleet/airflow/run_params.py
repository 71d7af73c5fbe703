"""What a run may be asked for: schemas for the form and for REST, the names that no DAG knows, and what others ask."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from airflow.sdk import Param, get_current_context

from onnx_fleet.entities.provider import EXECUTION_PROVIDERS
from onnx_fleet.entities.variant import NAMES
from onnx_fleet.errors import CatalogueInvalid
from onnx_fleet.jsonio import Json
from onnx_fleet.planning.catalogue.schema import LatencySection
from onnx_fleet.planning.catalogue.values import suggestion

FLEET: Final = "fleet_reexport"
"""The DAG that takes what is new at the Hub: the settings of the catalogue's entries hold in it."""
LICENCES: Final = "licence_approval"
"""The DAG that asks a person about licences."""


def choice(names: Iterable[str], *, empty: str) -> dict[str, Any]:
    """Return the JSON Schema of one of these names or none, which the form offers as choices.

    Args:
        empty: what the form calls the choice of none; Airflow would write ``null``.
    """
    return {"type": ["null", "string"], "enum": [None, *names], "values_display": {"null": empty}}


def _some_of(names: Iterable[str]) -> dict[str, Any]:
    """Return the JSON Schema of a list of these names, which the form offers as choices."""
    known = list(names)
    items = {"type": "string", "enum": known}
    return {"type": "array", "items": items, "minItems": 1, "uniqueItems": True, "examples": known}


VARIANTS: Final = _some_of(NAMES)
PROVIDERS: Final = _some_of(sorted(EXECUTION_PROVIDERS))
LATENCY: Final[dict[str, Any]] = {**LatencySection.model_json_schema(), "type": ["null", "object"]}
"""The JSON Schemas of ``variants``, ``providers`` and ``latency``."""
ONLY: Final[dict[str, Any]] = {"type": ["null", "array"], "items": {"type": "string"}}
"""The JSON Schema of ``only``, a field with one pattern on each line."""


def of_models(models: Iterable[str], *, catalogue: str) -> Json:
    """Return what a run of FLEET is asked for where the Hub has something new.

    A search may not find a model again, and that is no fault.

    Args:
        models: the ids of the entries to take.
    """
    return {"catalogue": catalogue, "only": list(models), "allow_unmatched": True}


def catalogue(usual: Path) -> Param:
    """Return the field of the catalogue that a run reads.

    Args:
        usual: the file where the run names no other.
    """
    return Param(
        str(usual),
        type="string",
        minLength=1,
        title="Catalogue",
        description="The catalogue file, as workers see it.",
    )


def patterns(given: object) -> list[str]:
    """Return the patterns of a field with one on each line: an emptied field is None, and a line may be blank."""
    lines = given if isinstance(given, list) else []
    return [line.strip() for line in lines if line.strip()]


def require_known() -> None:
    """Refuse what the run's conf says beside the parameters of its DAG: Airflow takes any name, and ignores it.

    Raises:
        CatalogueInvalid: the conf has names that the DAG does not know.
    """
    context = get_current_context()
    known, given = set(context["dag"].params), context["dag_run"].conf or {}
    unknown = sorted(set(given) - known)
    if unknown:
        dag_id = context["dag_run"].dag_id
        raise CatalogueInvalid.of(
            f"the run's conf says '{name}', which {dag_id} does not know"
            f"{suggestion(name, sorted(known)) if known else '; it takes no parameters'}"
            for name in unknown
        )
