"""A poll of the Hub: what it says of many repos now, in the fewest requests that this takes.

The models of one author are looked up in the author's list where that takes fewer requests than asking for each; a
model that is alone with its author, is wanted at another revision than main, or is no longer under its id is asked for
by itself. Searches bring what the Hub says of the models that they find. Every page is asked for with the ETag that it
had, and is asked for nothing that changes by itself, such as downloads. A poll that may not make all its requests goes
on with the rest the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import quote

from onnx_fleet.entities.entry import Discover, Entry
from onnx_fleet.entities.resolved_model import is_renamed
from onnx_fleet.errors import ModelGated, ModelNotFound, Retryable
from onnx_fleet.source import admission, hub_pages, search
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.hub_pages import Answer, Document, Page

_FIELDS: Final = ("gated", "lastModified", "sha", "tags")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoState:
    """What the Hub says of one repo."""

    repo_id: str
    """The Hub's own id, which is another than the one asked for where the repo was renamed."""
    commit: str | None = None
    """The commit of the revision that is wanted; None where the repo is gone."""
    gated: bool = False
    licence: str | None = None
    modified_at: str | None = None
    """The time of the last commit to the repo: ISO 8601, UTC."""
    gone: str = ""
    """Where the Hub has no such repo or revision, or not for this token: what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The pages of one call, as they were seen last."""

    wanted: tuple[str, ...]
    """What the pages were looked through for; for anything else they say nothing."""
    pages: tuple[Page, ...]
    """Empty where asking for each model takes fewer requests than the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one poll leaves for the next."""

    endpoint: str = ""
    listings: Mapping[str, Listing] = field(default_factory=dict)
    """The calls, by the address of their first page."""
    repos: Mapping[str, RepoState] = field(default_factory=dict)
    """What the Hub said of each repo, by the id asked for, in small letters."""
    waiting: tuple[str, ...] = ()
    """The addresses of the calls that were not made: the next poll begins with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The outcome of a poll."""

    repos: Mapping[str, RepoState]
    """What the Hub says, or said last, by the id asked for in small letters; a repo that was never asked for is absent.
    """
    matches: tuple[tuple[str, ...], ...]
    """The ids that each search finds, or found last, in the order of the searches."""
    memory: Memory
    requests: int


def poll(
    entries: Iterable[Entry],
    searches: Sequence[Discover] = (),
    *,
    hub: Hub,
    memory: Memory | None = None,
    max_requests: int | None = None,
) -> Poll:
    """Ask the Hub about every entry, and for what the searches find.

    Args:
        memory: what the poll before has left.
        max_requests: the most requests to make; None makes all that there are.
    Raises:
        HubUnavailable, HubRateLimited, ModelGated: the first call failed. A later one that fails ends the poll, and is
            made by the next one.
    """
    return _Round(hub, memory or Memory(), max_requests).made(tuple(entries), searches)


class _BudgetSpent(Exception):
    """The poll may not make another request."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One thing to ask for, which is asked for as a whole or not at all."""

    address: str
    ask: Callable[[], dict[str, RepoState]]
    """A function that returns what the Hub says of repos, by the ids asked for in small letters."""


class _Round:
    """The work of one poll."""

    def __init__(self, hub: Hub, memory: Memory, max_requests: int | None) -> None:
        self._hub = hub
        self._was = memory if memory.endpoint == hub.settings.endpoint else Memory(repos=memory.repos)
        self._max_requests = max_requests
        self._requests = 0
        self._listings: dict[str, Listing] = {}
        self._refused: list[ModelGated] = []

    def made(self, entries: Sequence[Entry], searches: Sequence[Discover]) -> Poll:
        looked_for = [_Search(discover, self._hub) for discover in searches]
        calls = [
            *(_Call(each.address, partial(self._ask_search, each)) for each in looked_for),
            *self._calls(entries),
        ]
        first = {address: number for number, address in enumerate(self._was.waiting)}
        calls.sort(key=lambda call: first.get(call.address, len(first)))
        repos, waiting = self._answers(calls)
        if self._refused and len(self._refused) == len(repos):
            raise self._refused[0]  # it is the token rather than the models
        matches = tuple(self._found(each) for each in looked_for)
        wanted = {entry.repo_id.lower() for entry in entries} | {name.lower() for ids in matches for name in ids}
        known = {name: state for name, state in {**self._was.repos, **repos}.items() if name in wanted}
        memory = Memory(
            endpoint=self._hub.settings.endpoint, listings=dict(self._listings), repos=known, waiting=waiting
        )
        return Poll(repos=known, matches=matches, memory=memory, requests=self._requests)

    def _answers(self, calls: Sequence[_Call]) -> tuple[dict[str, RepoState], tuple[str, ...]]:
        """Make the calls; return what the Hub says, and the addresses of the calls that were not made."""
        repos: dict[str, RepoState] = {}
        for number, call in enumerate(calls):
            try:
                repos |= call.ask()
            except (_BudgetSpent, Retryable) as err:
                if number == 0 and isinstance(err, Retryable):
                    raise
                left = calls[number:] if isinstance(err, _BudgetSpent) else [*calls[number + 1 :], call]
                for each in left:
                    self._listings |= {at: was for at, was in self._was.listings.items() if at == each.address}
                return repos, tuple(each.address for each in left)
        return repos, ()

    def _calls(self, entries: Sequence[Entry]) -> Iterable[_Call]:
        """Return the calls that tell of the entries: one for each author with several, and one for each other entry."""
        by_author: dict[str, list[Entry]] = {}
        for entry in entries:
            author = entry.repo_id.partition("/")[0].lower() if self._may_be_listed(entry) else ""
            by_author.setdefault(author, []).append(entry)
        for author, theirs in by_author.items():
            if author and len(theirs) > 1:
                address = self._list_address(theirs[0])
                known = self._known(address, _ids(theirs))
                if known is None or known.pages:
                    yield _Call(address, partial(self._ask_author, address, theirs, known))
                    continue
                self._listings[address] = known
            for entry in theirs:
                yield _Call(self._own_address(entry), partial(self._ask_by_itself, entry))

    def _may_be_listed(self, entry: Entry) -> bool:
        """Say whether an author's list tells of an entry: it has the commit of main, of repos under their own ids."""
        was = self._was.repos.get(entry.repo_id.lower())
        moved = was is not None and is_renamed(entry.repo_id, to=was.repo_id)
        return "/" in entry.repo_id and not moved and (entry.revision == "main" or _is_pinned(entry))

    def _ask_author(self, address: str, entries: Sequence[Entry], known: Listing | None) -> dict[str, RepoState]:
        """Look models of one author up in the author's list, and those that it lacks one by one."""
        by_id = {entry.repo_id.lower(): entry for entry in entries}
        fresh: dict[str, RepoState] = {}

        def take(documents: Sequence[Document], before: Sequence[Page]) -> tuple[tuple[str, ...], bool]:
            listed = {str(document["id"]).lower(): document for document in documents}
            ids = tuple(name for name in listed if name in by_id)
            fresh.update({name: _state(listed[name], entry=by_id[name]) for name in ids})
            return ids, {*ids, *(name for page in before for name in page.ids)} == by_id.keys()

        with self._hub.calling(f"models of {entries[0].repo_id.partition('/')[0]}"):
            pages = hub_pages.walk(
                address, ask=self._ask, take=take, known=known.pages if known else (), max_pages=len(by_id) - 1
            )
        states = {name: fresh.get(name) or self._was.repos[name] for page in pages for name in page.ids}
        is_whole = pages[-1].following is None
        alone = 0
        for name, entry in by_id.items():
            was = self._was.repos.get(name)
            if name not in states and is_whole and was is not None and was.gone:
                states[name] = was  # it would stand in the list
            elif name not in states:
                states |= self._ask_by_itself(entry)
                alone += 1
        is_worth_it = is_whole or len(pages) + alone < len(by_id)
        self._listings[address] = Listing(wanted=_ids(entries), pages=pages if is_worth_it else ())
        return states

    def _ask_by_itself(self, entry: Entry) -> dict[str, RepoState]:
        """Ask for one model, under the id of its entry: nothing else tells where that leads by now."""
        name, address = entry.repo_id.lower(), self._own_address(entry)
        known = self._known(address, (name,))
        fresh: dict[str, RepoState] = {}

        def take(document: Document, before: Sequence[Page]) -> tuple[tuple[str, ...], bool]:
            fresh[name] = _state(document, entry=entry)
            return (name,), True

        try:
            with self._hub.calling(f"{entry.repo_id}@{entry.revision}"):
                pages = hub_pages.walk(address, ask=self._ask, take=take, known=known.pages if known else ())
        except (ModelNotFound, ModelGated) as err:
            self._refused += [err] if isinstance(err, ModelGated) else []
            return {name: RepoState(repo_id=entry.repo_id, gone=str(err))}
        self._listings[address] = Listing(wanted=(name,), pages=pages)
        return fresh or {name: self._was.repos[name]}

    def _ask_search(self, asked: _Search) -> dict[str, RepoState]:
        """Look for the models of a search."""
        known = self._known(asked.address, asked.wanted)
        fresh: dict[str, RepoState] = {}

        def take(documents: Sequence[Document], before: Sequence[Page]) -> tuple[tuple[str, ...], bool]:
            ids, are_enough = search.take(asked.discover, documents, before)
            fresh.update({str(each["id"]).lower(): _state(each) for each in documents if each["id"] in ids})
            return ids, are_enough

        with self._hub.calling("search"):
            pages = hub_pages.walk(asked.address, ask=self._ask, take=take, known=known.pages if known else ())
        self._listings[asked.address] = Listing(wanted=asked.wanted, pages=pages)
        names = [name.lower() for page in pages for name in page.ids]
        return {name: fresh.get(name) or self._was.repos[name] for name in names}

    def _found(self, asked: _Search) -> tuple[str, ...]:
        pages = self._listings[asked.address].pages if asked.address in self._listings else ()
        return tuple(name for page in pages for name in page.ids)

    def _ask(self, address: str, etag: str | None) -> Answer:
        if self._max_requests is not None and self._requests >= self._max_requests:
            raise _BudgetSpent
        self._requests += 1
        answer = hub_pages.get(self._hub, address, etag)
        self._requests += answer.requests - 1
        return answer

    def _known(self, address: str, wanted: tuple[str, ...]) -> Listing | None:
        """Return the pages of a call as they were, where they were looked through for the same.

        Whoever can write to the store could have written them: none leads the token to another server.
        """
        was = self._was.listings.get(address)
        if was is None or was.wanted != wanted:
            return None
        if not all(name.lower() in self._was.repos for page in was.pages for name in page.ids):
            return None
        hub = f"{self._hub.settings.endpoint}/"
        return was if all(page.following is None or page.following.startswith(hub) for page in was.pages) else None

    def _list_address(self, entry: Entry) -> str:
        """Return the address of the list of a model's author, in the Hub's own spelling where that is known."""
        was = self._was.repos.get(entry.repo_id.lower())
        author = (was.repo_id if was else entry.repo_id).partition("/")[0]
        return hub_pages.address(self._hub, "models", {"author": author, "sort": "createdAt", "expand": _FIELDS})

    def _own_address(self, entry: Entry) -> str:
        revision = "" if entry.revision == "main" else f"/revision/{quote(entry.revision, safe='')}"
        return hub_pages.address(self._hub, f"models/{entry.repo_id}{revision}", {"expand": _FIELDS})


class _Search:
    """One search, as the Hub is asked for it."""

    def __init__(self, discover: Discover, hub: Hub) -> None:
        self.discover = discover
        self.address = search.address(discover, hub=hub, expand=_FIELDS)
        self.wanted = (str(discover.limit), str(discover.min_downloads), *discover.exclude)


def _ids(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(sorted(entry.repo_id.lower() for entry in entries))


def _is_pinned(entry: Entry) -> bool:
    return bool(admission.COMMIT.fullmatch(entry.revision))


def _state(document: Document, *, entry: Entry | None = None) -> RepoState:
    """Return what a document of the Hub's says.

    Raises:
        HubUnavailable: the commit is missing.
        KeyError, TypeError: the document is none of a Hub's.
    """
    commit = entry.revision if entry and _is_pinned(entry) else str(document["sha"])
    return RepoState(
        repo_id=str(document["id"]),
        commit=admission.require_commit(commit, subject=str(document["id"])),
        gated=bool(document.get("gated")),
        licence=admission.tagged_licence(map(str, document.get("tags") or ())),
        modified_at=document.get("lastModified"),
    )
