"""The Hub: entry -> resolved model; download exactly the files that an export needs, each one checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from huggingface_hub import ModelInfo

from onnx_fleet import sentence_modules, tasks, vocabulary
from onnx_fleet.entry import Discover, Entry
from onnx_fleet.errors import (
    ExportUnsupported,
    HubUnavailable,
    LicenceRefused,
    ModelGated,
    ModelInvalid,
    ModelTooLarge,
    OnnxFleetError,
    Retryable,
)
from onnx_fleet.hub_client import Hub, HubSettings
from onnx_fleet.hub_download import download, read_json
from onnx_fleet.repo_files import Permits, is_native, needed, require_inputs, require_pinned_code, require_safe_paths
from onnx_fleet.sentence_modules import SentenceModule
from onnx_fleet.source import ResolvedModel, SourceFile
from onnx_fleet.tasks import TASKS
from onnx_fleet.vocabulary import TokenizerClass

if TYPE_CHECKING:
    from onnx_fleet.plan import Refusal

__all__ = [
    "Hub",
    "HubSettings",
    "ResolvedModel",
    "SourceFile",
    "download",
    "resolve",
    "resolve_all",
    "search",
]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


OnDone = Callable[[Entry, ResolvedModel | OnnxFleetError], None]


def resolve(entry: Entry, *, hub: Hub) -> ResolvedModel:
    """Pin an entry to a commit, and hold the repo to what the entry allows; one call of the Hub's API.

    More are made where they cannot be avoided: config.json, when the Hub's answer does not tell the architecture;
    modules.json of a sentence-transformers model; tokenizer_config.json, when there is no tokenizer.json; a trusted
    tokenizer's code, which names its files; and whether the token has access, when the repo is gated.

    Raises:
        ModelNotFound, ModelGated, HubUnavailable, HubRateLimited: see Hub.calling.
        UnsafeModel: a file name leaves its folder, weights are pickle, or code would be run.
        LicenceRefused: the licence is not among the entry's.
        ModelInvalid: no architecture, no weights, or no tokenizer or preprocessor where the task needs one.
        ModelTooLarge: more to download than the entry's max_bytes.
        ExportUnsupported: no task fits, or a module behind the transformer is none that a graph can have.
    """
    with hub.calling(f"{entry.repo_id}@{entry.revision}"):
        info = hub.api.model_info(
            entry.repo_id, revision=entry.revision, files_metadata=True, timeout=hub.settings.request_timeout_s
        )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise HubUnavailable(f"{entry.repo_id}@{entry.revision}: the answer names no commit; check HF_ENDPOINT")
    subject = f"{info.id}@{commit[:7]}"
    permits = Permits(commit=commit, pickle=entry.allow_pickle == commit, remote_code=entry.trust_remote_code == commit)
    files = _listed(info, subject=subject)
    licence = _licence(info)
    _require_licence(licence, entry, subject=subject)
    _require_access(info, hub=hub, subject=subject)
    modules = _modules(info, files, commit, hub=hub, permits=permits, subject=subject)
    own_reader = _reader_of_code(files, info.id, commit, hub=hub, subject=subject) if permits.remote_code else None
    vocabularies = own_reader.files if own_reader else ()
    wanted = needed(files, permits=permits, subject=subject, modules=modules, vocabularies=vocabularies)
    architecture, model_type = _architecture(info, commit, hub=hub, permits=permits, subject=subject)
    task = _task(entry, info, architecture, subject=subject)
    if sentence_modules.pools_word_scores(modules) and TASKS[task].auto_classes == ("AutoModel",):
        task = "fill-mask"  # whatever the Hub calls it: the modules read the scores of words
    reader = own_reader
    if reader is None and "text" in TASKS[task].takes and vocabulary.TOKENIZER_JSON not in wanted:
        named = _tokenizer_settings(files, info.id, commit, hub=hub, subject=subject).get("tokenizer_class")
        reader = vocabulary.tokenizer_class(named if isinstance(named, str) else None, model_type=model_type)
    require_inputs(wanted, task=TASKS[task], subject=subject, tokenizer=entry.tokenizer, reader=reader)
    model = ResolvedModel(
        entry=entry,
        repo_id=info.id,
        commit=commit,
        task=task,
        architecture=architecture,
        model_type=model_type,
        licence=licence,
        gated=bool(info.gated),
        files=files,
        needed=wanted,
    )
    if entry.max_bytes is not None and model.size_bytes > entry.max_bytes:
        raise ModelTooLarge(
            f"{subject}: {model.size_bytes} bytes to download, max_bytes is {entry.max_bytes}; raise it or remove the"
            " entry"
        )
    return model


def resolve_all(
    entries: Iterable[Entry],
    *,
    hub: Hub,
    on_done: Callable[[Entry, ResolvedModel | OnnxFleetError], None] | None = None,
) -> tuple[tuple[ResolvedModel, ...], tuple[Refusal, ...]]:
    """Resolve many entries at once; one that fails becomes a refusal and stops none of the others.

    Args:
        on_done: told of each entry as it is done, in no particular order, from the calling thread.
    Returns:
        The models and the refusals, each in the entries' order.
    Raises:
        Retryable: every entry failed for a reason that may pass, so the Hub rather than the models is at fault.
    """
    from onnx_fleet.plan import Refusal  # plan builds on this module

    wanted = tuple(entries)
    outcomes = _outcomes(wanted, hub=hub, on_done=on_done)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Retryable)]
    if failures and len(failures) == len(wanted):
        raise failures[0]
    models, refusals = [], []
    for entry, outcome in zip(wanted, outcomes, strict=True):
        match outcome:
            case ResolvedModel() as model:
                models.append(model)
            case OnnxFleetError() as err:
                refusals.append(Refusal.of(entry.repo_id, err, step="resolve"))
    return tuple(models), tuple(refusals)


def search(discover: Discover, *, hub: Hub) -> tuple[str, ...]:
    """The repo ids that a catalogue's search finds now, in the Hub's order, at most ``discover.limit``.

    Raises:
        HubUnavailable, HubRateLimited, ModelGated: see Hub.calling.
    """
    tags = [*discover.tags, *([discover.library] if discover.library else [])]
    everything_counts = not discover.exclude and not discover.min_downloads
    found: list[str] = []
    with hub.calling("search"):
        for info in hub.api.list_models(
            author=discover.author,
            filter=tags or None,
            pipeline_tag=discover.task,
            sort=discover.sort,  # type: ignore[arg-type]  # catalogue_schema.SORTS are its names
            limit=discover.limit if everything_counts else None,
        ):
            too_few = (info.downloads or 0) < discover.min_downloads
            if too_few and discover.sort == "downloads":
                break  # the rest have fewer still
            if too_few or discover.excludes(info.id):
                continue
            found.append(info.id)
            if len(found) == discover.limit:
                break
    return tuple(found)


def _outcomes(
    entries: Sequence[Entry], *, hub: Hub, on_done: OnDone | None
) -> tuple[ResolvedModel | OnnxFleetError, ...]:
    """What becomes of each entry, in the entries' order."""
    with ThreadPoolExecutor(hub.settings.max_workers, thread_name_prefix="hub-resolve") as pool:
        entry_of = {pool.submit(_outcome, entry, hub): entry for entry in entries}
        try:
            for future in as_completed(entry_of):
                if on_done is not None:
                    on_done(entry_of[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # nobody is left to take the other answers
            raise
        return tuple(future.result() for future in entry_of)


def _outcome(entry: Entry, hub: Hub) -> ResolvedModel | OnnxFleetError:
    try:
        return resolve(entry, hub=hub)
    except OnnxFleetError as err:
        return err


def _listed(info: ModelInfo, *, subject: str) -> tuple[SourceFile, ...]:
    """The repo's files, names checked before anything is done with them.

    Raises:
        UnsafeModel: a name leaves its folder.
        ModelInvalid: a file is listed without size or digest.
    """
    siblings = info.siblings or []
    require_safe_paths((sibling.rfilename for sibling in siblings), subject=subject)
    files = []
    for sibling in siblings:
        digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git-sha1:{sibling.blob_id}"
        pattern = _SHA256 if sibling.lfs else _COMMIT
        size_bytes = sibling.lfs.size if sibling.lfs else sibling.size
        if size_bytes is None or not pattern.fullmatch(digest.partition(":")[2]):
            raise ModelInvalid(
                f"{subject}: the Hub lists {sibling.rfilename} without size or digest, so it cannot be checked; ask"
                " the Hub itself instead of a mirror (HF_ENDPOINT)"
            )
        files.append(SourceFile(path=sibling.rfilename, size_bytes=size_bytes, digest=digest))
    return tuple(sorted(files, key=lambda file: file.path))


def _modules(
    info: ModelInfo, files: Sequence[SourceFile], commit: str, *, hub: Hub, permits: Permits, subject: str
) -> tuple[SentenceModule, ...]:
    """The modules of a sentence-transformers source; none of any other.

    Raises:
        ModelInvalid, UnsafeModel, ExportUnsupported: see sentence_modules.parse.
    """
    if all(file.path != sentence_modules.FILE_NAME for file in files):
        return ()
    folder = hub.fetch(info.id, sentence_modules.FILE_NAME, commit=commit).parent
    return sentence_modules.read(folder, subject=subject, trusted=permits.remote_code)


def _licence(info: ModelInfo) -> str | None:
    """What the model card says; the Hub's own tag where it says nothing."""
    if info.card_data is not None and isinstance(info.card_data.license, str):
        return info.card_data.license
    return next((tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")), None)


def _require_licence(licence: str | None, entry: Entry, *, subject: str) -> None:
    """
    Raises:
        LicenceRefused: the entry allows others only.
    """
    if entry.allowed_licences is None or licence in entry.allowed_licences:
        return
    if licence is None:
        raise LicenceRefused(
            f"{subject}: the model card names no licence, and allowed_licences is set; remove the entry, or clear"
            " allowed_licences for it"
        )
    raise LicenceRefused(f"{subject}: licence {licence!r} is not in allowed_licences; add it there or remove the entry")


def _require_access(info: ModelInfo, *, hub: Hub, subject: str) -> None:
    """A gated repo lists its files to everyone, and serves them to those who accepted its terms.

    Raises:
        ModelGated: to others than us.
    """
    if not info.gated:
        return
    if not hub.settings.token:
        raise ModelGated(
            f"{subject} is gated; accept its terms on {hub.settings.endpoint}/{info.id}, then give a token (HF_TOKEN)"
        )
    with hub.calling(subject):
        hub.api.auth_check(info.id)


def _architecture(info: ModelInfo, commit: str, *, hub: Hub, permits: Permits, subject: str) -> tuple[str, str]:
    """The model class and model_type, from the Hub's answer, or else from config.json.

    Raises:
        ModelInvalid: config.json does not say.
        UnsafeModel: config.json asks for code that is not permitted.
    """
    config: dict[str, object] = info.config or {}
    unclear = "custom_code" in (info.tags or ()) and "auto_map" not in config
    if unclear or not config.get("architectures") or not config.get("model_type"):
        path = hub.fetch(info.id, "config.json", commit=commit)
        config = read_json(path, subject=subject)
    architectures, model_type = config.get("architectures"), config.get("model_type")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelInvalid(f"{subject}: config.json has no 'architectures'; name a revision that has")
    if not isinstance(model_type, str) or not model_type:
        raise ModelInvalid(f"{subject}: config.json has no 'model_type'; name a revision that has")
    auto_map = config.get("auto_map")
    if isinstance(auto_map, dict) and not is_native(auto_map, architecture=architectures[0], model_type=model_type):
        require_pinned_code(auto_map, permits=permits, subject=subject)
    return architectures[0], model_type


def _tokenizer_settings(
    files: Iterable[SourceFile], repo_id: str, commit: str, *, hub: Hub, subject: str
) -> dict[str, object]:
    """What tokenizer_config.json says; nothing where there is none."""
    name = "tokenizer_config.json"
    if name not in {file.path for file in files}:
        return {}
    return read_json(hub.fetch(repo_id, name, commit=commit), subject=subject)


def _reader_of_code(
    files: Sequence[SourceFile], repo_id: str, commit: str, *, hub: Hub, subject: str
) -> TokenizerClass | None:
    """The tokenizer class of a trusted repo's own code; None where transformers' classes read the repo's files."""
    auto_map = _tokenizer_settings(files, repo_id, commit, hub=hub, subject=subject).get("auto_map")
    places = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map
    place = next((each for each in (places if isinstance(places, list) else [places]) if isinstance(each, str)), "")
    module, _, name = place.rpartition(".")
    path = f"{module.replace('.', '/')}.py"
    if not module or path not in {file.path for file in files}:
        return None
    source = hub.fetch(repo_id, path, commit=commit).read_text(encoding="utf-8", errors="replace")
    return vocabulary.class_of_code(name, sources=[source])


def _task(entry: Entry, info: ModelInfo, architecture: str, *, subject: str) -> str:
    """What the entry says, else the Hub's pipeline tag, else what the architecture is for.

    Raises:
        ExportUnsupported: none of them is a task that can be exported.
    """
    if entry.task is not None:
        if entry.task not in TASKS:
            raise ExportUnsupported(f"{subject}: unknown task {entry.task!r}; write one of {_names(sorted(TASKS))}")
        return entry.task
    if info.pipeline_tag is not None and info.pipeline_tag in TASKS:
        return info.pipeline_tag
    if (task := tasks.of_architecture(architecture)) is not None:
        return task.name
    raise ExportUnsupported(
        f"{subject}: no task for {architecture} (the Hub says {info.pipeline_tag or 'nothing'}); write task: with one"
        f" of {_names(sorted(TASKS))}, or remove the entry"
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
