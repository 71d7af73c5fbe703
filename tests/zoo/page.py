"""docs/architectures.md: a row an architecture, as the last survey found it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx_fleet.entities.tasks import TASKS
from zoo import ARCHITECTURES
from zoo.architecture import Architecture
from zoo.survey import Verdict, survey
from zoo.tiny import shrunk

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"

EVERY = 64
"""A row costs about ten seconds of a core: all of them are more than every push can wait for."""

STATUSES = ("right", "refused", "failed", "unknown")
"""The first that one of its rows has is a model type's own."""
_TITLES: Mapping[str, str] = {
    "encoder": "Encoders",
    "decoder": "Decoders",
    "seq2seq": "Encoder-decoders",
    "vision": "Vision",
    "speech": "Speech",
    "dual": "Dual encoders",
    "vlm": "Vision-language models",
}
_CAUSES: tuple[tuple[str, str], ...] = (
    ("beside keys and values", "it keeps something beside keys and values between steps"),
    ("something else than keys and values", "it keeps something else than keys and values between steps"),
    ("have no such input", "it has inputs that the graphs of its task lack"),
    ("branches on a size", "it computes differently at different sizes"),
    ("cannot be traced", "torch.export cannot follow it"),
    ("in a way that is not proven here", "it looks at images in a way that is not proven here"),
    ("transformers has no ", "transformers loads it for no task of ours"),
    ("would not tell a broken graph", "its tiny model would not tell a broken graph"),
    ("a row of text alone does not tell", "it sees or hears too, and was asked for text alone"),
    ("no tiny model of it could be made", "no tiny model of it could be made"),
    ("took longer than", "it took too long"),
)
"""A part of a row's note -> the cause that it is counted under."""
_HEAD = """# Architectures

**{right} of {types} model types are right.** Those are the model types of transformers {transformers} that it has for
the tasks of this project. Of the others, {refused} are refused, {failed} fail, and {unknown} are unknown, because no row can tell.

Every row is a model class of one of them, made tiny from its real configuration class, with weights that make faults
visible. It goes through the same export and validation as every model. CI repeats every {every}th row of
each family that is right or refused, and fails if a result differs from this page.

- **right**: every check against plain PyTorch passed, at batch sizes and lengths that were never traced, with padding.
- **refused**: no graph was made; the last column has the message that a user gets.
- **failed**: graphs were made and a check failed, or the export failed; such a model is never published.
- **unknown**: the survey has no tiny model with which a broken graph would be noticed, or it took too long.

A model type has the status of its best row. The worst difference is the largest difference from PyTorch over all outputs of
all checks; outputs are of unit size. An architecture that is not listed is tried with the family of its task, and published
only if it passes the validation.

{counts} of {rows} rows. Write this page again with `make architectures`.
"""
_COLUMNS = (
    "| architecture | model type | task | graphs | worst difference | status | |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a line of a table says."""

    architecture: str
    model_type: str
    task: str
    status: str
    note: str

    @classmethod
    def of(cls, text: str) -> Row:
        cells = [cell.strip() for cell in text.strip().strip("|").split(" | ")]
        return cls(architecture=cells[0].strip("`"), model_type=cells[1], task=cells[2], status=cells[5], note=cells[6])

    @property
    def family(self) -> str:
        return TASKS[self.task].family

    @property
    def tried(self) -> Architecture:
        """The row of the zoo that it tells of."""
        written = next((row for row in ARCHITECTURES if row.name == self.architecture), None)
        return written or shrunk(self.architecture, self.task)


def render(lines: Mapping[str, str], *, transformers: str, types: Iterable[str]) -> str:
    """The page from its rows' lines.

    Args:
        lines: architecture -> its line of the table.
        types: every model type that transformers has for our tasks.
    """
    rows = {name: Row.of(text) for name, text in lines.items()}
    ended = of_types(rows.values())
    found = Counter(ended.get(model_type, "unknown") for model_type in {*types, *ended})
    counts = Counter(row.status for row in rows.values())
    head = _HEAD.format(
        right=found["right"],
        types=found.total(),
        refused=found["refused"],
        failed=found["failed"],
        unknown=found["unknown"],
        counts=", ".join(f"{counts[status]} {status}" for status in STATUSES),
        rows=len(rows),
        every=EVERY,
        transformers=transformers,
    )
    parts = [head, _causes(rows.values())]
    for family, title in _TITLES.items():
        own = sorted(
            (row.model_type, list(TASKS).index(row.task), name) for name, row in rows.items() if row.family == family
        )
        if own:
            parts.append("\n".join((f"## {title}", "", *_COLUMNS, *(lines[name] for *_, name in own), "")))
    return "\n".join(parts)


def write(kept: Mapping[str, str]) -> None:
    """The page of this transformers. Imports it."""
    import transformers

    from zoo.tiny import every_row

    types = {row.model_type for row in every_row()}
    known = {row.name for row in every_row()}
    kept = {name: text for name, text in kept.items() if name in known}
    partial = PAGE.with_suffix(".partial")  # a survey's other threads read the page
    partial.write_text(render(kept, transformers=transformers.__version__, types=types), encoding="utf-8")
    partial.replace(PAGE)


def line(verdict: Verdict) -> str:
    """A verdict as a line of the table."""
    worst = "–" if verdict.worst_abs_diff is None else f"{verdict.worst_abs_diff:.0e}"
    graphs = ", ".join(f"`{role}`" for role in verdict.graphs) or "–"
    note = verdict.note.replace("|", "\\|")
    named = (f"`{verdict.architecture}`", verdict.model_type, verdict.task)
    return f"| {' | '.join((*named, graphs, worst, verdict.status, note or '–'))} |"


def lines(page: Path = PAGE) -> dict[str, str]:
    """Architecture -> its line, as a page has them; empty when there is no page yet."""
    if not page.exists():
        return {}
    rows = [text for text in page.read_text(encoding="utf-8").splitlines() if text.startswith("| `")]
    return {text.split("`")[1]: text for text in rows}


def rows(page: Path = PAGE) -> tuple[Row, ...]:
    """What a page says, in its order."""
    return tuple(Row.of(text) for text in lines(page).values())


def of_types(found: Iterable[Row]) -> dict[str, str]:
    """Model type -> the best status that one of its rows has."""
    statuses: dict[str, list[str]] = defaultdict(list)
    for row in found:
        statuses[row.model_type].append(row.status)
    return {model_type: min(own, key=STATUSES.index) for model_type, own in sorted(statuses.items())}


def sample(family: str) -> tuple[Architecture, ...]:
    """The rows of a family that CI surveys again: of those that are right, or refused in words."""
    return tuple(row.tried for row in rows() if row.family == family and row.status in ("right", "refused"))[::EVERY]


def require_as_documented(architecture: Architecture, folder: Path) -> None:
    """Survey one architecture, and hold what is found to the page."""
    found = survey(architecture, folder)
    said = lines().get(architecture.name)
    assert said is not None, f"{architecture.name} has no row in {PAGE.name}: run make architectures"
    assert found.status == Row.of(said).status, f"{PAGE.name} says {said}; now: {line(found)}"


def _causes(found: Iterable[Row]) -> str:
    """How many rows each cause keeps from being right."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in found:
        if row.status != "right":
            cause = next((words for part, words in _CAUSES if part in row.note), "another cause")
            counts[row.status, cause] += 1
    table = [f"| {status} | {cause} | {count} |" for (status, cause), count in counts.most_common()]
    return "\n".join(("## Why not right", "", "| status | cause | rows |", "| --- | --- | --- |", *table, ""))
