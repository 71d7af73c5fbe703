"""The JSON documents with which the Hub describes repos."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from onnx_fleet.entities import tasks
from onnx_fleet_demo.hub_repos import Commit, HubRepos, RepoFile, Settings

Document = dict[str, object]

_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
_CREATED = "2026-01-01T00:00:00.000Z"


def model_info(commit: Commit, settings: Settings, *, blobs: bool) -> Document:
    """Return ``/api/models/<id>``: what the Hub tells of one model at one commit."""
    card = _card(commit)
    config = {} if settings.hidden_config else _config(commit)
    document = _summary(commit, settings, card, config)
    siblings = [_sibling(file, blobs=blobs) for file in commit.files.values()]
    counted = {} if settings.hidden_config else _safetensors(commit)
    return {**document, "sha": commit.sha, "cardData": card, "config": config or None, **counted, "siblings": siblings}


def _safetensors(commit: Commit) -> Document:
    """Count the numbers of each type in a model's safetensors files; empty where they cannot be read."""
    parameters: Counter[str] = Counter()
    for path, file in commit.files.items():
        if "/" in path or not path.endswith(".safetensors"):
            continue
        try:
            with file.location.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, file.size_bytes)))
            for name, tensor in header.items():
                if name != "__metadata__":
                    parameters[tensor["dtype"]] += math.prod(tensor["shape"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
    return {"safetensors": {"parameters": dict(parameters), "total": parameters.total()}} if parameters else {}


def _summary(commit: Commit, settings: Settings, card: Document, config: Document) -> Document:
    repo_id = commit.repo_id
    return {
        "_id": repo_id,
        "id": repo_id,
        "modelId": repo_id,
        "author": repo_id.split("/", maxsplit=1)[0],
        "private": settings.private,
        "gated": settings.gated or False,
        "disabled": False,
        "downloads": settings.downloads,
        "likes": settings.likes,
        "createdAt": _CREATED,
        "lastModified": settings.last_modified,
        "tags": _tags(commit, card, config),
        "pipeline_tag": _pipeline_tag(card, config),
        "library_name": _library(card, config),
    }


def expanded(document: Document, fields: Sequence[str]) -> Document:
    """Return the part of a document that ``expand`` asks for, and the id; all of it where nothing is asked for."""
    return {name: document[name] for name in ("_id", "id", *fields) if name in document} if fields else document


def tree(commit: Commit, *, under: str, recursive: bool) -> list[Document]:
    """Return ``/api/models/<id>/tree/<revision>/<folder>``: folders first, then files; empty without such a folder."""
    prefix = f"{under}/" if under else ""
    inside = {path: file for path, file in commit.files.items() if path.startswith(prefix)}
    folders = {
        path[: slash.start()]
        for path in inside
        for slash in re.finditer("/", path)
        if slash.start() > len(prefix) and (recursive or "/" not in path[len(prefix) : slash.start()])
    }
    files = [file for path, file in inside.items() if recursive or "/" not in path[len(prefix) :]]
    listed = [{"type": "directory", "path": path, "oid": commit.sha, "size": 0} for path in sorted(folders)]
    return [*listed, *(path_info(file) for file in files)]


def path_info(file: RepoFile) -> Document:
    """Return one file of a tree."""
    document: Document = {"type": "file", "path": file.path, "oid": file.blob_id, "size": file.size_bytes}
    if file.sha256:
        document["lfs"] = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": file.pointer_bytes}
    return document


def front_matter(card: str) -> str | None:
    """Return the YAML at the beginning of a model card; None where there is none."""
    matter = _FRONT_MATTER.match(card)
    return None if matter is None else matter[1]


def refs(commit: Commit, settings: Settings) -> Document:
    """Return ``/api/models/<id>/refs``."""

    def listed(names: Mapping[str, str], kind: str) -> list[Document]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in sorted(names.items())
        ]

    branches = listed({"main": commit.sha, **settings.branches}, "heads")
    return {"branches": branches, "converts": [], "tags": listed(settings.tags, "tags"), "pullRequests": []}


def history(commit: Commit, settings: Settings) -> list[Document]:
    """Return ``/api/models/<id>/commits/<revision>``: of a folder, only its present state is known."""
    title = "Files as they lie"
    return [{"id": commit.sha, "title": title, "message": "", "date": settings.last_modified, "authors": []}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The parameters that ``/api/models`` takes."""

    filters: Sequence[str] = ()
    author: str | None = None
    search: str | None = None
    pipeline_tag: str | None = None
    gated: bool | None = None
    sort: str | None = None
    limit: int | None = None
    full: bool = False
    expand: Sequence[str] = ()


_SORT_KEYS: Mapping[str, str] = {
    "downloads": "downloads",
    "likes": "likes",
    "lastModified": "lastModified",
    "createdAt": "createdAt",
    "trendingScore": "downloads",
}


def model_list(repos: HubRepos, query: Query) -> list[Document]:
    """Return ``/api/models``: every listed model that fits, sorted; the server cuts it into pages.

    Raises:
        KeyError: the Hub does not sort by that.
    """
    is_full = query.full or bool(query.expand)
    found = [document for document in _listed(repos, full=is_full) if _fits(document, query)]
    if query.sort:
        key = _SORT_KEYS[query.sort]
        found.sort(key=lambda document: _sortable(document[key]), reverse=True)
    return [expanded(document, query.expand) for document in found]


def _listed(repos: HubRepos, *, full: bool) -> Iterable[Document]:
    for repo_id in repos.ids():
        settings = repos.settings(repo_id)
        commit = repos.commit(repo_id, "main")
        if settings.private or commit is None:
            continue
        yield model_info(commit, settings, blobs=False) if full else _short(commit, settings)


def _short(commit: Commit, settings: Settings) -> Document:
    return _summary(commit, settings, _card(commit), _config(commit))


def _fits(document: Document, query: Query) -> bool:
    tags = document["tags"]
    assert isinstance(tags, list)
    return (
        all(wanted in tags for wanted in query.filters)
        and query.author in (None, document["author"])
        and query.pipeline_tag in (None, document["pipeline_tag"])
        and (query.gated is None or query.gated == bool(document["gated"]))
        and (query.search is None or query.search.lower() in str(document["id"]).lower())
    )


def _sortable(value: object) -> tuple[int, str]:
    return (value, "") if isinstance(value, int) else (0, str(value))


def _sibling(file: RepoFile, *, blobs: bool) -> Document:
    document: Document = {"rfilename": file.path}
    if blobs:
        document |= {"size": file.size_bytes, "blobId": file.blob_id}
        if file.sha256:
            document["lfs"] = {"sha256": file.sha256, "size": file.size_bytes, "pointerSize": file.pointer_bytes}
    return document


def _card(commit: Commit) -> Document:
    """Return the front matter of the model card; empty where there is none, or where it cannot be read."""
    matter = front_matter((commit.read("README.md") or b"").decode("utf-8", errors="replace"))
    if matter is None:
        return {}
    try:
        card = YAML(typ="safe", pure=True).load(matter)
    except YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def _config(commit: Commit) -> Document:
    """Return the part of config.json that the Hub shows."""
    config = _json(commit, "config.json")
    shown: Document = {
        key: config[key] for key in ("architectures", "model_type", "auto_map", "quantization_config") if key in config
    }
    return {**shown, "tokenizer_config": _json(commit, "tokenizer_config.json")} if shown else {}


def _json(commit: Commit, path: str) -> Document:
    try:
        data = json.loads(commit.read(path) or b"{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _pipeline_tag(card: Document, config: Document) -> str | None:
    """Return the card's own tag, or what the architecture is for."""
    if "pipeline_tag" in card:
        return str(card["pipeline_tag"])
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    task = tasks.of_architecture(name)
    return task.name if task else None


def _library(card: Document, config: Document) -> str | None:
    return str(card["library_name"]) if "library_name" in card else ("transformers" if config else None)


def _tags(commit: Commit, card: Document, config: Document) -> list[str]:
    """Return the card's tags and those that the Hub adds: library, task, licence, language, model type, formats."""
    added = [
        _library(card, config),
        "safetensors" if any(path.endswith(".safetensors") for path in commit.files) else None,
        "pytorch" if any(path.endswith("pytorch_model.bin") for path in commit.files) else None,
        str(config["model_type"]) if "model_type" in config else None,
        _pipeline_tag(card, config),
        "custom_code" if "auto_map" in config else None,
        *_words(card.get("tags")),
        *_words(card.get("language")),
        *(f"license:{licence}" for licence in _words(card.get("license"))),
        *(f"dataset:{dataset}" for dataset in _words(card.get("datasets"))),
    ]
    return list(dict.fromkeys(tag for tag in added if tag))


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else ([str(value)] if value else [])
