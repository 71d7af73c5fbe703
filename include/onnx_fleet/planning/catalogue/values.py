"""What single values of a catalogue may be: a repo id, a task, a size; and what to write where one is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from onnx_fleet import recipes
from onnx_fleet.entities.entry import DECODER_FORMS
from onnx_fleet.entities.graph_info import FIXABLE, SYMBOLS
from onnx_fleet.entities.provider import CPU, CUDA, EXECUTION_PROVIDERS
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.variant import FP32, NAMES, VARIANTS
from onnx_fleet.planning.calibration import source as calibration_source
from onnx_fleet.recipes import RECIPES

SORTS: Final = ("downloads", "likes", "trending_score", "last_modified", "created_at")

_AXES: Final = tuple(sorted(FIXABLE))
_NAMES_SHOWN: Final = 20
T = TypeVar("T", str, int)

_UNITS: Final = {
    "": 1,
    "B": 1,
    **{prefix + "B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{prefix + "IB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_SIZE: Final = r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$"
_WEIGHTS_VARIANT: Final = r"[A-Za-z0-9_-]+"
_COMMIT: Final = r"^[0-9a-f]{40}$"
RECIPE_OF_FILE: Final = r"^recipes\.[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"
_REPO_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO_ID: Final = rf"^(?:{_REPO_PART}/)?{_REPO_PART}$"
_HUB_URL: Final = r"^https?://[^/]+/([^/]+/[^/?#]+)"


def suggestion(word: str, known: Collection[str]) -> str:
    """Suggest a known word: ``; did you mean 'x'?``, or ``; write one of a, b``, which names the first few of many."""
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    more = f", … ({len(known)} in all)" if len(known) > _NAMES_SHOWN else ""
    return f"; write one of {', '.join(list(known)[:_NAMES_SHOWN])}{more}"


def fault(message: str) -> PydanticCustomError:
    """Make a fault whose message is whole: what is wrong, and what to write instead."""
    return PydanticCustomError("fault", "{message}", {"message": message})


def check_repo_id(text: str) -> str:
    if url := re.match(_HUB_URL, text):
        raise fault(f"'{text}' is an address; write the repo id: {url.group(1)}")
    if not re.fullmatch(_REPO_ID, text) or "--" in text or ".." in text or text.endswith(".git"):
        raise fault(f"'{text}' is not a repo id; write org/name, as the Hub's page shows it")
    return text


def check_revision(text: str) -> str:
    if not text or text != text.strip() or any(c.isspace() for c in text) or ".." in text or text.startswith("-"):
        raise fault(f"'{text}' is not a revision; write a branch, a tag or a commit SHA")
    return text


def check_commit(text: str) -> str:
    if not re.fullmatch(_COMMIT, text):
        raise fault(
            f"'{text}' is not a commit SHA; write the 40 hex digits of the one commit whose files you have looked at"
        )
    return text


def check_task(name: str) -> str:
    if name not in TASKS:
        raise fault(f"task '{name}' is not known{suggestion(name, TASKS)}")
    return name


def check_architecture(name: str) -> str:
    if not name.isidentifier():
        raise fault(f"'{name}' is not a class name; write its name in transformers, such as BertForMaskedLM")
    return name


def check_weights_variant(name: str) -> str:
    if not re.fullmatch(_WEIGHTS_VARIANT, name):
        raise fault(f"'{name}' is not a variant of weights; write fp16 for model.fp16.safetensors")
    return name


def check_recipe(name: str) -> str:
    if ":" not in name and name not in RECIPES:
        raise fault(f"recipe '{name}' is not known{suggestion(name, RECIPES)}")
    if why := recipes.fault(name):
        raise fault(why)
    return name


def check_variant(name: str) -> str:
    if name not in NAMES:
        raise fault(f"variant '{name}' is not known{suggestion(name, NAMES)}")
    return name


def check_made(name: str) -> str:
    if name == FP32:
        raise fault(f"{FP32} is always made; write any of {', '.join(VARIANTS)}")
    return check_variant(name)


def check_variants(names: list[str]) -> list[str]:
    if FP32 not in names:
        raise fault(f"variants lacks {FP32}, from which all others are made; write [{FP32}, …]")
    return names


def check_calibration(name: str) -> str:
    if why := calibration_source.fault(name):
        raise fault(why)
    return name


def check_provider(name: str) -> str:
    if name.lower() in ("gpu", EXECUTION_PROVIDERS[CUDA].lower()):
        raise fault(f"provider '{name}' is not known; did you mean '{CUDA}'?")
    if name not in EXECUTION_PROVIDERS:
        raise fault(f"provider '{name}' is not known{suggestion(name, EXECUTION_PROVIDERS)}")
    return name


def check_decoder_form(name: str) -> str:
    if name not in DECODER_FORMS:
        raise fault(f"decoder_form '{name}' is not known{suggestion(name, DECODER_FORMS)}")
    return name


def check_axis(name: str) -> str:
    if name in SYMBOLS - FIXABLE:
        raise fault(f"{name} may not be fixed, because consumers choose it; write any of {', '.join(_AXES)}")
    if name not in FIXABLE:
        raise fault(f"axis '{name}' is not known{suggestion(name, _AXES)}")
    return name


def check_providers(names: list[str]) -> list[str]:
    if CPU not in names:
        raise fault("providers has no cpu, where every bundle is validated; write [cpu, cuda]")
    return names


def check_sort(name: str) -> str:
    if name not in SORTS:
        raise fault(f"sort '{name}' is not known{suggestion(name, SORTS)}")
    return name


def check_distinct(values: list[T]) -> list[T]:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise fault(f"{', '.join(twice)} is listed twice; list each once")
    return values


def check_rising(shares: list[int]) -> list[int]:
    if shares != sorted(set(shares)):
        raise fault(f"shares {shares} do not rise; write each larger than the one before, such as [5, 25, 100]")
    return shares


PERCENTAGE: Final = r"^(100|[1-9][0-9]?) ?%$"


def read_canary(canary: object) -> object:
    """Read ``5%`` as a mapping of that one share; anything else passes."""
    if isinstance(canary, str) and (match := re.fullmatch(PERCENTAGE, canary)):
        return {"shares": [int(match.group(1))]}
    return canary


def _read_size(size: object) -> object:
    """Read ``2 GB`` as bytes; numbers pass. K, M, G and T are powers of 1000, Ki, Mi, Gi and Ti of 1024."""
    if not isinstance(size, str):
        return size
    match = re.fullmatch(_SIZE, size)
    if match is None or match.group(2).upper() not in _UNITS:
        raise fault(f"'{size}' is not a size; write a number of bytes, or 500 MB, 2 GB, 1.5 GiB")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


def _enum(names: Collection[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(names)})


RepoId = Annotated[str, AfterValidator(check_repo_id)]
CommitSha = Annotated[str, AfterValidator(check_commit), WithJsonSchema({"type": "string", "pattern": _COMMIT})]
TaskName = Annotated[str, AfterValidator(check_task), _enum(TASKS)]
RecipeName = Annotated[
    str,
    AfterValidator(check_recipe),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "enum": list(RECIPES)}, {"type": "string", "pattern": RECIPE_OF_FILE}]}
    ),
]
VariantName = Annotated[str, AfterValidator(check_variant), _enum(NAMES)]
MadeVariantName = Annotated[str, AfterValidator(check_made), _enum(VARIANTS)]
ProviderName = Annotated[str, AfterValidator(check_provider), _enum(EXECUTION_PROVIDERS)]
DecoderForm = Annotated[str, AfterValidator(check_decoder_form), _enum(DECODER_FORMS)]
AxisName = Annotated[str, AfterValidator(check_axis), _enum(_AXES)]
SortName = Annotated[str, AfterValidator(check_sort), _enum(SORTS)]
Word = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Size = Annotated[
    Annotated[int, Field(ge=1)],
    BeforeValidator(_read_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _SIZE}]}),
]
