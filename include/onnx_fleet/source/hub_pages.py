"""Lists of the Hub's API, page by page; with an ETag, a page that has not changed is not sent again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from huggingface_hub import get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # public, lazily

from onnx_fleet.source.hub_client import Hub

Document = Mapping[str, Any]
"""What the Hub says of one repo, in its own terms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one request."""

    document: Any
    """The JSON value; None where it is the one that the ETag was of."""
    is_new: bool
    etag: str | None
    following: str | None
    """The address of the next page; None behind the last one."""
    requests: int
    """The requests that it took: one, and another for each redirect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page, with what was taken from it: this is kept, and the documents are not."""

    address: str
    etag: str | None
    """None where the server gave none: the page is then sent whole each time."""
    following: str | None
    """The address of the page to ask for behind this one; None where enough was found."""
    ids: tuple[str, ...]
    """The repo ids that were taken, in the page's order."""


Ask = Callable[[str, str | None], Answer]
"""A function that gets the page at an address, or learns that the one with the ETag still stands."""
Take = Callable[[Any, Sequence[Page]], tuple[tuple[str, ...], bool]]
"""A function of what a page says and the pages before it, which returns the ids to take and whether they are enough."""


def address(hub: Hub, path: str, parameters: Mapping[str, object]) -> str:
    """Return the address of a call of the API; a list stands for a parameter that is given several times."""
    return f"{hub.settings.endpoint}/api/{path}?{urlencode(parameters, doseq=True)}"


def get(hub: Hub, url: str, etag: str | None = None) -> Answer:
    """Ask for one page; to be called inside Hub.calling, which makes it wait, and fail, as it should."""
    headers = build_hf_headers(token=hub.token, library_name="onnx-fleet")
    response = get_session().get(url, headers=headers | ({"If-None-Match": etag} if etag else {}))
    hf_raise_for_status(response)
    is_new = response.status_code != 304
    return Answer(
        document=response.json() if is_new else None,
        is_new=is_new,
        etag=response.headers.get("ETag"),
        following=response.links.get("next", {}).get("url"),
        requests=1 + len(response.history),
    )


def walk(
    first: str, *, ask: Ask, take: Take, known: Sequence[Page] = (), max_pages: int | None = None
) -> tuple[Page, ...]:
    """Ask for a list's pages, one after the other, until enough is found.

    Args:
        first: the address of the first page.
        known: the pages as they were; of one that has not changed the same is taken again.
        max_pages: the most pages to ask for.
    """
    was = {page.address: page for page in known}
    pages: list[Page] = []
    here: str | None = first
    while here is not None and (max_pages is None or len(pages) < max_pages):
        before = was.get(here)
        answer = ask(here, before.etag if before else None)
        if before is not None and not answer.is_new:
            page = before
        else:
            ids, are_enough = take(answer.document, pages)
            following = None if are_enough else answer.following
            page = Page(address=here, etag=answer.etag, following=following, ids=ids)
        pages.append(page)
        here = page.following
    return tuple(pages)
