"""The history of a channel: a row for each move, and for each version that was published and kept from it.

history/<org>/<name>/<channel>/
    <number>-<digest>.json    a move; the channel's document names the last one, and each row the one before it
    held-<version>.json       a version that was published, and that the channel did not follow

A row is written before the swap that it belongs to, and never changed: its name has the digest of its bytes. A row that
neither the channel nor another row names is of a swap that did not take place: its writer was killed, or another one
came first. docs/decisions/publishing.md says why it is done so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AwareDatetime, ConfigDict, StringConstraints, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.entities.channel_move import Actor, MoveKind
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore, layout
from onnx_fleet.store.concurrency import at_once

RowName = Annotated[str, StringConstraints(pattern=r"^\d{8,}-[0-9a-f]{16}$")]
"""The name of a move's row: its number, and the beginning of the digest of its bytes."""
_HELD: Final = "held-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a channel's history."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    channel: str
    number: int
    """The number of the move among those of the channel, from 1; of a row ``held_back``, of the move before it, or 0.

    It decides the order, and not the time: the clocks of writers may differ.
    """
    before: RowName | None
    """The name of the row of the move before; None where there is none."""
    kind: MoveKind | Literal["held_back"]
    """``held_back``: the channel did not follow a version that was published; otherwise what moved it."""
    from_version: str | None
    """The version that it pointed to; None where it was not there yet."""
    to_version: str
    """The version that it points to since then; of a row ``held_back``, the one that it did not follow."""
    held: bool
    """Whether runs leave the channel where it is since then."""
    by: Actor
    why: str
    at: AwareDatetime
    """The time by the clock of the writer."""

    @property
    def name(self) -> str:
        """The row's name in the store: of a move, its number and the digest of its bytes."""
        if self.kind == "held_back":
            return f"{_HELD}{self.to_version}"
        return f"{self.number:08d}-{hashlib.sha256(to_bytes(self)).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of a channel's past."""

    model_id: str
    channel: str
    rows: tuple[Row, ...]
    """The moves that took place, and between them the versions that were held back, in their order."""
    problems: tuple[str, ...] = ()
    """Statements about rows that are missing or damaged, or of which nobody can say whether they took place."""


def to_bytes(row: Row) -> bytes:
    """Return the bytes of a row in the store."""
    return jsonio.canonical(jsonio.to_json(row))


def number_of(name: str) -> int:
    """Return the number in the name of a move's row."""
    return int(name.partition("-")[0])


def is_held_back(name: str) -> bool:
    """Say whether a row of this name is about a version that its channel did not follow, and no move."""
    return name.startswith(_HELD)


def append(store: ObjectStore, row: Row) -> str:
    """Put a row into the store, unless it stands there; returns its name."""
    store.create(layout.history_key(row.model_id, row.channel, row.name), to_bytes(row))
    return row.name


def next_number(store: ObjectStore, model_id: str, channel: str, *, last: str | None) -> int:
    """Return the number of the next move of a channel.

    A channel whose document is gone goes on behind the highest number that there is. One whose rows are all the first
    was never there: they are of writers that were killed before the swap.

    Args:
        last: the row that the channel's document names; without one the store is asked what rows there are.
    """
    if last:
        return number_of(last) + 1
    numbers = (number_of(name) for name in _names(store, model_id, channel) if not is_held_back(name))
    highest = max(numbers, default=0)
    return highest + 1 if highest > 1 else 1


def read_row(store: ObjectStore, model_id: str, channel: str, name: str) -> Row:
    """Return one row.

    Raises:
        BundleNotFound: it is not there.
        BundleCorrupt: the bytes under its name are not those that were written.
    """
    key = layout.history_key(model_id, channel, name)
    try:
        row = jsonio.adapter(Row).validate_json(store.read(key), strict=True)
    except ValidationError as err:
        raise _damaged(store, key) from err
    if (row.model_id, row.channel, row.name) != (model_id, channel, name):
        raise _damaged(store, key)
    return row


def read(store: ObjectStore, model_id: str, channel: str, *, last: str | None) -> History:
    """Return the history of a channel.

    Args:
        last: the row that the channel's document names, which was read before this call: rows are only added.
    """
    rows, problems = _read_all(store, model_id, channel, last=last)
    took_place = {name for name in (last, *(row.before for row in rows.values())) if name}
    numbers = {number_of(name) for name in took_place}
    end = max(numbers, default=0) + (0 if last else 1)  # behind the last one stand those that are under way
    problems += [
        f"{row.name}: nobody can say whether this move to {row.to_version} took place, because the document of the"
        " channel was removed afterwards"
        for row in sorted(rows.values(), key=_in_order)
        if row.name not in took_place and 1 < row.number <= end and row.number not in numbers
    ]
    kept = (row for name, row in rows.items() if row.kind == "held_back" or name in took_place)
    return History(
        model_id=model_id, channel=channel, rows=tuple(sorted(kept, key=_in_order)), problems=tuple(problems)
    )


def lost(store: ObjectStore, model_id: str, channel: str, *, last: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return which of these rows are of moves that never took place, because another one took place in their stead.

    A row that alone has its number is not among them: of the last one before the document of its channel was removed
    nobody can say it.

    Args:
        last: the row that the channel's document names.
    """
    rows, _problems = _read_all(store, model_id, channel, last=last)
    took_place = {last, *(row.before for row in rows.values() if row.before)}
    taken = {number_of(name) for name in took_place}
    return tuple(name for name in names if name in rows and name not in took_place and number_of(name) in taken)


def _in_order(row: Row) -> tuple[int, bool, object, str]:
    """Return the place of a row: behind the move that it belongs to; only what follows the same move goes by time."""
    return row.number, row.kind == "held_back", row.at, row.to_version


def _read_all(store: ObjectStore, model_id: str, channel: str, *, last: str | None) -> tuple[dict[str, Row], list[str]]:
    """Return the rows by their names, and what is wrong with the others.

    A listing in several pages may lack a row that another one in it names, where both were written meanwhile.
    """

    def read_one(name: str) -> Row | str:
        try:
            return read_row(store, model_id, channel, name)
        except BundleNotFound:
            return f"{name}: this row is missing; restore it from a copy of the store"
        except BundleCorrupt as err:
            return str(err)

    found: dict[str, Row | str] = {}
    wanted = {*_names(store, model_id, channel), *([last] if last else [])}
    while wanted:
        found |= zip(sorted(wanted), at_once(read_one, sorted(wanted), threads="history"), strict=True)
        wanted = {row.before for row in found.values() if isinstance(row, Row) and row.before} - found.keys()
    rows = {name: row for name, row in found.items() if isinstance(row, Row)}
    return rows, [row for row in found.values() if isinstance(row, str)]


def _names(store: ObjectStore, model_id: str, channel: str) -> Iterable[str]:
    for info in store.list(layout.history_prefix(model_id, channel)):
        if match := layout.HISTORY_KEY.fullmatch(info.key):
            yield match[3]


def _damaged(store: ObjectStore, key: str) -> BundleCorrupt:
    return BundleCorrupt(
        f"{store.address}/{key}: is not the row of a channel's history that was written there; restore it from a copy"
        " of the store"
    )
