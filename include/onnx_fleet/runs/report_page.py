"""A report as one HTML page, for a person with a browser or a phone.

The page holds its style, asks for nothing from elsewhere and runs no script. Every text in it is escaped, and every
link leads to a key of the store that the page lies in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from posixpath import relpath
from typing import Final
from urllib.parse import quote

_GOOD: Final = frozenset({"published", "unchanged", "passed", "started", "noted"})
_WARNING: Final = frozenset({"held", "waiting", "not_compared", "left out"})

_LONGEST_WHOLE_WORD: Final = 20
"""The number of letters of the longest word that stays whole in a table: a version has 17."""

_STYLE: Final = """
:root { color-scheme: light dark; --bad: #c62828; --warning: #b26a00; --good: #2e7d32; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
section { border: 1px solid var(--line); border-left: .3rem solid var(--bad); padding: .6rem .8rem; margin: .8rem 0; }
section.warning { border-left-color: var(--warning); }
section.good { border-left-color: var(--good); }
section h3 { font-size: 1rem; margin: 0; }
section p { margin: .4rem 0 0; white-space: pre-wrap; }
.state { color: var(--bad); font-weight: 600; }
.state.warning { color: var(--warning); }
.state.good { color: var(--good); }
.links a { display: inline-block; margin-right: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
th, td:not(.long) { overflow-wrap: break-word; }
@media (max-width: 48rem) {
  thead { display: none; }
  tr { display: block; border-bottom: 1px solid var(--line); padding: .4rem 0; }
  td { display: grid; grid-template-columns: 8rem 1fr; border: 0; padding: .1rem 0; }
  td::before { content: attr(data-column); opacity: .7; }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a page says in full of one model or bundle."""

    name: str
    state: str
    """A state of its report; what else is said of it stands in ``heading``."""
    heading: str
    paragraphs: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    """The keys in the store that the card leads to, by the text of their link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a page; on a phone each row becomes a list."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""
    """A paragraph below the table."""


def key_of(report_key: str) -> str:
    """Return the key of a report's page."""
    return f"{report_key.removesuffix('.json')}.html"


def anchor(name: str) -> str:
    """Return the fragment of a page's address at which the card of a model or bundle stands."""
    return name.replace("/", "--")


def page(*, key: str, title: str, lead: str, cards: Iterable[Card], tables: Iterable[Table]) -> str:
    """Return the HTML of a page.

    Args:
        key: the page's key in the store, which its links go out from.
        lead: the line below the title.
    """
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(lead)}</p>"]
    body += [_card(card, key=key) for card in cards]
    body += [_table(table) for table in tables if table.rows]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            *body,
            "</html>",
            "",
        ]
    )


def _card(card: Card, *, key: str) -> str:
    look = _look(card.state)
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in card.paragraphs if text)
    links = "".join(
        f'<a href="{escape(quote(relpath(target, key.rpartition("/")[0])))}">{escape(text)}</a>'
        for text, target in card.links.items()
    )
    return (
        f'<section class="{look}" id="{escape(anchor(card.name))}"><h3>{escape(card.name)}</h3>'
        f'<span class="state {look}">{escape(card.heading)}</span>{paragraphs}'
        + (f'<p class="links">{links}</p>' if links else "")
        + "</section>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(column, text) for column, text in zip(table.columns, row, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    note = f"\n<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{escape(table.title)}</h2>\n<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>{note}"
    )


def _cell(column: str, text: str) -> str:
    """Return a cell; a narrow table breaks a long word, such as an address, and no short one."""
    long = ' class="long"' if max(map(len, text.split()), default=0) > _LONGEST_WHOLE_WORD else ""
    return f'<td{long} data-column="{escape(column)}"><span>{escape(text)}</span></td>'


def _look(state: str) -> str:
    """Return the class of what has a state; "bad" is the style of what has none."""
    return "good" if state in _GOOD else "warning" if state in _WARNING else "bad"
