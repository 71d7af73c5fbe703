"""The Hub: entry -> resolved model; download exactly the files that an export needs, each one checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import ModelInfo

from onnx_fleet import jsonio
from onnx_fleet.bundles import model_config
from onnx_fleet.conventions import sentence_modules, vocabulary
from onnx_fleet.conventions.sentence_modules import SentenceModule
from onnx_fleet.conventions.vocabulary import TokenizerClass
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.naming import at_commit
from onnx_fleet.entities.resolved_model import ResolvedModel, SourceFile, laid_out
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.work_item import Refusal
from onnx_fleet.errors import (
    ModelInvalid,
    ModelTooLarge,
    OnnxFleetError,
    Retryable,
)
from onnx_fleet.source import admission, architecture, repo_kind, static_embedding
from onnx_fleet.source.architecture import Decided
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.repo_files import (
    Permits,
    float32_bytes,
    has_weights,
    is_native,
    needed,
    require_inputs,
    require_more_than_a_stub,
    require_pinned_code,
    require_safe_paths,
)

__all__ = [
    "resolve",
    "resolve_all",
]

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKENIZER_CONFIG = "tokenizer_config.json"
_PLAIN_TYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "BOOL"})
"""The tensor types, as the Hub counts them, that nobody packs other weights into."""


OnDone = Callable[[Entry, ResolvedModel | OnnxFleetError], None]


def resolve(entry: Entry, *, hub: Hub) -> ResolvedModel:
    """Pin an entry to a commit, and hold the repo to what the entry allows; one call of the Hub's API.

    More are made where they cannot be avoided: the index of a model in several files; config.json, when the Hub's
    answer does not tell the architecture, does not count the weights by their types, or may leave out a package that
    the model needs; modules.json of a sentence-transformers model; tokenizer_config.json, when there is no
    tokenizer.json; a trusted tokenizer's code, which names its files; and whether the token has access, when the repo
    is gated.

    Raises:
        ModelNotFound, ModelGated, HubUnavailable, HubRateLimited: see Hub.calling.
        UnsafeModel: a file name leaves its folder, weights are pickle, or code would be run.
        LicenceRefused: the licence is not among the entry's.
        ModelRenamed: the Hub has the repo under another id, and the entry does not follow.
        ModelInvalid: no architecture, no weights but a stub of them, or no tokenizer or preprocessor where the task
            needs one.
        ModelTooLarge: more to download than the entry's max_bytes.
        ExportUnsupported: the repo is no model of transformers, its weights are quantised, no task fits, or a module
            behind the transformer is none that a graph can have.
    """
    repo = _found(entry, hub=hub)
    licence = admission.licence(repo.info)
    licence_name = admission.licence_name(repo.info)
    admission.require_licence(licence, entry, subject=repo.subject, name=licence_name)
    admission.require_access(repo.info.id, gated=bool(repo.info.gated), hub=hub, subject=repo.subject)
    repo_kind.require_transformers(
        repo.places,
        read=repo.read,
        base_models=admission.base_models(repo.info),
        has_weights=has_weights(repo.places),
        library=repo.info.library_name,
        subject=repo.subject,
    )
    own_reader = _reader_of_code(repo) if repo.permits.remote_code else None
    made = static_embedding.made(repo.places) if repo.is_static else ()
    wanted = needed(
        repo.places,
        permits=repo.permits,
        read=repo.read,
        variant=entry.weights_variant,
        modules=repo.modules[1:],
        made=made,
        vocabularies=own_reader.files if own_reader else (),
        subject=repo.subject,
    )
    config = _config(repo)
    decided = _decided(entry, config, repo)
    reader = own_reader or _reader(decided, repo, wanted)
    require_inputs(wanted, task=TASKS[decided.task], subject=repo.subject, tokenizer=entry.tokenizer, reader=reader)
    model = ResolvedModel(
        entry=entry,
        repo_id=repo.info.id,
        commit=repo.permits.commit,
        task=decided.task,
        architecture=decided.architecture,
        model_type=decided.model_type,
        licence=licence,
        licence_name=licence_name,
        gated=bool(repo.info.gated),
        files=repo.files,
        needed=wanted,
        folder=repo.folder,
        made=made,
        completed=static_embedding.COMPLETED if repo.is_static else _completed(config, decided, entry),
    )
    _require_size(model, subject=repo.subject)
    counted = repo.info.safetensors.parameters if repo.info.safetensors and not repo.folder else {}
    dtype = config.get("dtype") or config.get("torch_dtype")
    return replace(model, float32_bytes=float32_bytes(model.sources.values(), counted=counted, dtype=dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repo:
    """A repo at the commit that an entry was resolved to."""

    info: ModelInfo
    """The Hub's answer."""
    hub: Hub
    permits: Permits
    files: tuple[SourceFile, ...]
    modules: tuple[SentenceModule, ...]
    """The modules of a sentence-transformers source; none of any other."""
    places: Mapping[str, str]
    """The path in the repo of each file, by where it stands in what is loaded."""
    subject: str
    """The repo and its commit, for people."""
    was_read: dict[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of the repo that its model lies in: empty for the root."""
        return self.modules[0].path if self.modules else ""

    @property
    def is_static(self) -> bool:
        """Whether the model is a table of vectors, and not a model of transformers."""
        return bool(self.modules) and self.modules[0].is_own and self.modules[0].kind == sentence_modules.STATIC

    def fetch(self, path: str) -> Path:
        """Download a file, by where it stands.

        Raises:
            HubUnavailable, HubRateLimited, ModelNotFound, ModelGated: see Hub.calling.
        """
        return self.hub.fetch(self.info.id, self.places.get(path, path), commit=self.permits.commit)

    def read(self, path: str) -> Mapping[str, object]:
        """Read a JSON object, by where its file stands; each is downloaded once.

        Raises:
            ModelInvalid: the file is not a JSON object.
        """
        if path not in self.was_read:
            self.was_read[path] = jsonio.read_object(self.fetch(path), subject=self.subject)
        return self.was_read[path]


def _found(entry: Entry, *, hub: Hub) -> _Repo:
    """Find the repo at the entry's revision, check its files' names and read its modules.

    Raises:
        ModelNotFound, ModelGated, HubUnavailable, HubRateLimited: see Hub.calling.
        ModelRenamed: the Hub has it under another id, and the entry does not follow.
        UnsafeModel, ModelInvalid, ExportUnsupported: see _listed and sentence_modules.parse.
    """
    with hub.calling(f"{entry.repo_id}@{entry.revision}"):
        info = hub.api.model_info(
            entry.repo_id, revision=entry.revision, files_metadata=True, timeout=hub.settings.request_timeout_s
        )
    admission.require_id(info.id, entry)
    commit = admission.require_commit(info.sha or "", subject=f"{entry.repo_id}@{entry.revision}")
    subject = at_commit(info.id, commit)
    permits = Permits(commit=commit, pickle=entry.allow_pickle == commit, remote_code=entry.trust_remote_code == commit)
    files = _listed(info, subject=subject)
    modules: tuple[SentenceModule, ...] = ()
    if any(file.path == sentence_modules.FILE_NAME for file in files):
        folder = hub.fetch(info.id, sentence_modules.FILE_NAME, commit=commit).parent
        modules = sentence_modules.read(folder, subject=subject, trusted=permits.remote_code)
    return _Repo(
        info=info,
        hub=hub,
        permits=permits,
        files=files,
        modules=modules,
        places=laid_out([file.path for file in files], folder=modules[0].path if modules else ""),
        subject=subject,
    )


def _decided(entry: Entry, config: Mapping[str, object], repo: _Repo) -> Decided:
    """Decide the class and the task, of an architecture that can be loaded here.

    Raises:
        UnsafeModel: the class is code of the repo's that is not permitted.
        ModelInvalid, ExportUnsupported: see architecture.decide; or the weights are packed in fewer bits, or a part is
            another package's.
    """
    repo_kind.require_plain_weights(config, base_models=admission.base_models(repo.info), subject=repo.subject)
    if repo.is_static:
        return static_embedding.decide(entry, tag=repo.info.pipeline_tag, subject=repo.subject)
    if not entry.architecture:
        repo_kind.require_no_timm_repo(config, subject=repo.subject)
    said = architecture.declared(
        config,
        pipeline_tag=repo.info.pipeline_tag,
        own_code=_brings_code(config, entry=entry, permits=repo.permits, subject=repo.subject),
    )
    decided = architecture.decide(entry, said, subject=repo.subject)
    if sentence_modules.pools_word_scores(repo.modules) and TASKS[decided.task].auto_classes == ("AutoModel",):
        # Whatever the Hub calls it: the modules read the scores of words.
        decided = architecture.decide(replace(entry, task="fill-mask"), said, subject=repo.subject)
    repo_kind.require_packages(config, model_type=decided.model_type, subject=repo.subject)
    return decided


def _require_size(model: ResolvedModel, *, subject: str) -> None:
    """Refuse a model whose weights are a stub, or which is larger than its entry allows.

    Raises:
        ModelInvalid: the weights are a stub.
        ModelTooLarge: there is more to download than the entry allows.
    """
    sizes = {path: file.size_bytes for path, file in model.sources.items()}
    require_more_than_a_stub(sizes, architecture=model.architecture, subject=subject)
    limit = model.entry.max_bytes
    if limit is not None and model.size_bytes > limit:
        raise ModelTooLarge(
            f"{subject}: {model.size_bytes} bytes to download, max_bytes is {limit}; raise it or remove the entry"
        )


def resolve_all(
    entries: Iterable[Entry],
    *,
    hub: Hub,
    on_done: Callable[[Entry, ResolvedModel | OnnxFleetError], None] | None = None,
) -> tuple[tuple[ResolvedModel, ...], tuple[Refusal, ...]]:
    """Resolve many entries at once; one that fails becomes a refusal and stops none of the others.

    Args:
        on_done: is told of each entry as it is done, in no particular order, from the calling thread.
    Returns:
        The models and the refusals, each in the entries' order.
    Raises:
        Retryable: every entry failed for a reason that may pass, so the Hub rather than the models is at fault.
    """
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


def _outcomes(
    entries: Sequence[Entry], *, hub: Hub, on_done: OnDone | None
) -> tuple[ResolvedModel | OnnxFleetError, ...]:
    """Return what becomes of each entry, in the entries' order."""
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
    """Return the repo's files; names are checked before anything is done with them.

    Raises:
        UnsafeModel: a name leaves its folder.
        ModelInvalid: a file is listed without size or digest.
    """
    siblings = info.siblings or []
    require_safe_paths((sibling.rfilename for sibling in siblings), subject=subject)
    files = []
    for sibling in siblings:
        digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git-sha1:{sibling.blob_id}"
        pattern = _SHA256 if sibling.lfs else _SHA1
        size_bytes = sibling.lfs.size if sibling.lfs else sibling.size
        if size_bytes is None or not pattern.fullmatch(digest.partition(":")[2]):
            raise ModelInvalid(
                f"{subject}: the Hub lists {sibling.rfilename} without size or digest, so it cannot be checked; ask"
                " the Hub itself instead of a mirror (HF_ENDPOINT)"
            )
        files.append(SourceFile(path=sibling.rfilename, size_bytes=size_bytes, digest=digest))
    return tuple(sorted(files, key=lambda file: file.path))


def _config(repo: _Repo) -> Mapping[str, object]:
    """Return config.json as far as resolving needs it: the Hub's excerpt, or the whole file where that may not do."""
    if repo.is_static and "config.json" not in repo.places:
        return {}
    info = repo.info
    config: Mapping[str, object] = info.config or {}
    counted = set(info.safetensors.parameters) if info.safetensors else set()
    model_type = config.get("model_type")
    if (
        repo.folder
        or not config.get("architectures")
        or not isinstance(model_type, str)
        or ("custom_code" in (info.tags or ()) and "auto_map" not in config)
        or not counted
        or not counted <= _PLAIN_TYPES
        or repo_kind.may_need_packages(model_type)
    ):
        return repo.read("config.json")
    return config


def _completed(config: Mapping[str, object], decided: Decided, entry: Entry) -> tuple[str, ...]:
    """Return the keys that config.json lacks, or that the entry overrides."""
    changes = model_config.completion(
        config,
        architecture=decided.architecture,
        model_type=decided.model_type,
        overrides=bool(entry.architecture),
    )
    return tuple(sorted(changes))


def _brings_code(config: Mapping[str, object], *, entry: Entry, permits: Permits, subject: str) -> bool:
    """Say whether the model's class is code of the repo's, which then has to be permitted.

    Raises:
        UnsafeModel: it is not permitted.
    """
    auto_map, names, model_type = (config.get(key) for key in ("auto_map", "architectures", "model_type"))
    if not isinstance(auto_map, dict) or not auto_map or entry.architecture:
        return False
    own = str(names[0]) if isinstance(names, list) and names else ""
    if is_native(auto_map, architecture=own, model_type=str(model_type)):
        return False
    require_pinned_code(auto_map, permits=permits, subject=subject)
    return True


def _tokenizer_settings(repo: _Repo) -> Mapping[str, object]:
    """Return what tokenizer_config.json says; empty where there is none."""
    return repo.read(_TOKENIZER_CONFIG) if _TOKENIZER_CONFIG in repo.places else {}


def _reader(decided: Decided, repo: _Repo, wanted: Collection[str]) -> TokenizerClass | None:
    """Return the class of transformers that reads the repo's vocabulary; None where nothing has to."""
    if "text" not in TASKS[decided.task].takes or vocabulary.TOKENIZER_JSON in wanted:
        return None
    named = _tokenizer_settings(repo).get("tokenizer_class")
    return vocabulary.tokenizer_class(named if isinstance(named, str) else None, model_type=decided.model_type)


def _reader_of_code(repo: _Repo) -> TokenizerClass | None:
    """Return the tokenizer class of a trusted repo's code; None where transformers' classes read the repo's files."""
    auto_map = _tokenizer_settings(repo).get("auto_map")
    places = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map
    place = next((each for each in (places if isinstance(places, list) else [places]) if isinstance(each, str)), "")
    module, _, name = place.rpartition(".")
    path = f"{module.replace('.', '/')}.py"
    if not module or path not in repo.places:
        return None
    source = repo.fetch(path).read_text(encoding="utf-8", errors="replace")
    return vocabulary.class_of_code(name, sources=[source])
