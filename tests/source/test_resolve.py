"""Resolve, against a Hub that is really asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import safetensors.numpy

from fixtures.models import RepoMaker
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.errors import (
    ExportUnsupported,
    HubUnavailable,
    LicenceRefused,
    ModelGated,
    ModelInvalid,
    ModelNotFound,
    ModelRenamed,
    ModelTooLarge,
    OnnxFleetError,
    Permanent,
    UnsafeModel,
)
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.resolve import resolve, resolve_all
from onnx_fleet_demo import models
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer


def _model_type(architecture: str) -> str:
    """The model type whose class this is, as transformers itself says."""
    import transformers

    return str(getattr(transformers, architecture).config_class.model_type)


def _with_token(hub: Hub, token: str) -> Hub:
    return Hub(replace(hub.settings, token=token))


def test_the_bytes_of_the_weights_in_float32_are_told_before_a_download(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    repo = repo_maker.sound()
    counted = resolve(Entry(repo_id=repo), hub=hub).float32_bytes
    weights = safetensors.numpy.load_file(repo_maker.root / repo / "model.safetensors")
    assert counted == sum(tensor.size for tensor in weights.values()) * 4

    # Where the Hub does not count, the file's size tells, and config.json of which type its numbers are.
    hub_server.repos.configure(repo, Settings(hidden_config=True))
    size_bytes = (repo_maker.root / repo / "model.safetensors").stat().st_size
    assert resolve(Entry(repo_id=repo), hub=hub).float32_bytes == size_bytes
    half = repo_maker.with_config("acme/half", dtype="bfloat16")
    hub_server.repos.configure(half, Settings(hidden_config=True))
    assert resolve(Entry(repo_id=half), hub=hub).float32_bytes == 2 * size_bytes


def test_an_entry_is_pinned_to_a_commit(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound()
    model = resolve(Entry(repo_id=repo), hub=hub)
    assert len(model.commit) == 40
    assert (model.repo_id, model.task, model.architecture, model.model_type, model.licence, model.gated) == (
        repo,
        "text-classification",
        "BertForSequenceClassification",
        "bert",
        "apache-2.0",
        False,
    )
    digests = {file.path: file.digest.partition(":")[0] for file in model.files}
    assert (digests["model.safetensors"], digests["config.json"]) == ("sha256", "git-sha1")
    assert model.size_bytes == sum(path.stat().st_size for path in (repo_maker.root / repo).iterdir())


def test_a_model_costs_one_request(demo_hub: Hub, demo_hub_server: HubServer) -> None:
    """But for the sentence-transformers model, whose modules are read before anything else is downloaded."""
    demo_hub_server.log.clear()
    resolved, refused = resolve_all([Entry(repo_id=repo) for repo in models.DEMO_MODELS], hub=demo_hub)
    assert [model.repo_id for model in resolved] == list(models.DEMO_MODELS)
    assert refused == ()
    assert demo_hub_server.log.counts() == {"info": 3, "file-head": 1, "file-get": 1}


def test_the_demo_fleet_resolves_to_its_tasks(demo_hub: Hub) -> None:
    resolved, _ = resolve_all([Entry(repo_id=repo) for repo in models.DEMO_MODELS], hub=demo_hub)
    assert [model.task for model in resolved] == ["sentence-similarity", "text-classification", "fill-mask"]
    assert {"1_Pooling/config.json", "modules.json", "sentence_bert_config.json"} <= set(resolved[0].needed)
    assert "data_config.json" not in resolved[0].needed


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound()
    old = hub_server.repos.keep(repo)
    (repo_maker.root / repo / "README.md").write_text("---\nlicense: mit\n---\n")
    hub_server.repos.configure(repo, Settings(tags={"v1": old}))
    assert resolve(Entry(repo_id=repo, revision="v1"), hub=hub).commit == old
    assert resolve(Entry(repo_id=repo, revision=old), hub=hub).commit == old
    assert resolve(Entry(repo_id=repo), hub=hub).commit != old


def test_a_one_part_id_becomes_the_canonical_one(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound("acme/gpt-tiny")
    hub_server.repos.configure(repo, Settings(aliases=("gpt-tiny",)))
    assert resolve(Entry(repo_id="gpt-tiny"), hub=hub).repo_id == repo


def test_a_repo_that_was_renamed_is_known_by_both_ids_or_refused(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    repo = repo_maker.sound("acme/new")
    hub_server.repos.configure(repo, Settings(aliases=("acme/old", "new")))
    followed = resolve(Entry(repo_id="acme/old"), hub=hub)
    assert (followed.repo_id, followed.renamed_from) == (repo, "acme/old")
    assert [asked.status for asked in hub_server.log.asked if asked.route == "info"] == [307, 200]
    for same in ("acme/new", "ACME/New", "new"):
        hub_server.repos.configure(repo, Settings(aliases=("acme/old", "new", "ACME/New")))
        assert resolve(Entry(repo_id=same, follow_renames=False), hub=hub).renamed_from is None
    with pytest.raises(ModelRenamed, match="acme/old: the Hub has renamed it to acme/new; write that id"):
        resolve(Entry(repo_id="acme/old", follow_renames=False), hub=hub)


def test_config_json_is_fetched_when_the_hub_did_not_parse_it(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    repo = repo_maker.sound()
    hub_server.repos.configure(repo, Settings(hidden_config=True))
    assert resolve(Entry(repo_id=repo), hub=hub).architecture == "BertForSequenceClassification"
    assert hub_server.log.counts() == {"info": 1, "file-head": 1, "file-get": 1}


def test_config_json_is_fetched_when_only_a_tag_speaks_of_code(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    card = b"---\npipeline_tag: text-classification\ntags: [custom_code]\n---\n"
    assert resolve(Entry(repo_id=repo_maker.with_files({"README.md": card}, repo_id="acme/tagged")), hub=hub)
    assert hub_server.log.counts() == {"info": 1, "file-head": 1, "file-get": 1}


@pytest.mark.parametrize(
    ("tag", "architecture", "task"),
    [
        ("text-classification", "BertForSequenceClassification", "text-classification"),
        ("text-ranking", "BertForSequenceClassification", "text-ranking"),
        ("feature-extraction", "BertForMaskedLM", "feature-extraction"),
        (None, "BertForTokenClassification", "token-classification"),
        (None, "RobertaForQuestionAnswering", "question-answering"),
        (None, "MPNetModel", "feature-extraction"),
        (None, "GPT2LMHeadModel", "text-generation"),
        ("no-such-tag", "T5ForConditionalGeneration", "text2text-generation"),
        (None, "WhisperForConditionalGeneration", "automatic-speech-recognition"),
        (None, "CLIPModel", "zero-shot-image-classification"),
    ],
)
def test_the_task_comes_from_the_pipeline_tag_then_from_the_architecture(
    hub: Hub, repo_maker: RepoMaker, tag: str | None, architecture: str, task: str
) -> None:
    repo = repo_maker.with_config("acme/task", architectures=[architecture], model_type=_model_type(architecture))
    card = f"---\npipeline_tag: {tag}\n---\n" if tag else "no front matter"
    (repo_maker.root / repo / "README.md").write_text(card)
    (repo_maker.root / repo / "preprocessor_config.json").write_text("{}")
    assert resolve(Entry(repo_id=repo), hub=hub).task == task


def test_the_entrys_task_goes_first(hub: Hub, repo_maker: RepoMaker) -> None:
    assert resolve(Entry(repo_id=repo_maker.sound(), task="feature-extraction"), hub=hub).task == "feature-extraction"


@pytest.mark.parametrize(
    ("architecture", "task"), [("BertForPreTraining", "fill-mask"), ("GPT2DoubleHeadsModel", "text-classification")]
)
def test_a_model_without_a_task_says_what_to_write(
    hub: Hub, repo_maker: RepoMaker, architecture: str, task: str
) -> None:
    repo = repo_maker.with_config("acme/task", architectures=[architecture], model_type=_model_type(architecture))
    (repo_maker.root / repo / "README.md").write_text("---\npipeline_tag: reinforcement-learning\n---\n")
    message = (
        rf"acme/task@\w{{8}}: the Hub says reinforcement-learning, .* {architecture} .*; write task: with .*{task}"
    )
    with pytest.raises(ExportUnsupported, match=message):
        resolve(Entry(repo_id=repo), hub=hub)
    with pytest.raises(ExportUnsupported, match=r"unknown task 'reinforcement-learning'; write one of .*fill-mask"):
        resolve(Entry(repo_id=repo, task="reinforcement-learning"), hub=hub)


def test_a_config_without_a_class_needs_a_task_and_one_without_a_type_a_class(hub: Hub, repo_maker: RepoMaker) -> None:
    tagged = resolve(Entry(repo_id=repo_maker.without_architecture()), hub=hub)
    assert (tagged.architecture, tagged.model_type, tagged.task, tagged.completed) == (
        "BertForSequenceClassification", "bert", "text-classification", ("architectures",),
    )  # fmt: skip
    asked = resolve(Entry(repo_id=tagged.repo_id, task="feature-extraction"), hub=hub)
    assert (asked.architecture, asked.task) == ("BertModel", "feature-extraction")

    bare = repo_maker.with_config("acme/bare", architectures=None, model_type=None)
    named = resolve(Entry(repo_id=bare, architecture="BertForMaskedLM", task="fill-mask"), hub=hub)
    assert (named.architecture, named.model_type, named.completed) == (
        "BertForMaskedLM", "bert", ("architectures", "model_type"),
    )  # fmt: skip
    untyped = resolve(Entry(repo_id=repo_maker.with_config("acme/untyped", model_type=None)), hub=hub)
    assert (untyped.model_type, untyped.completed) == ("bert", ("model_type",))


def test_the_entrys_class_goes_before_a_wrong_one(hub: Hub, repo_maker: RepoMaker) -> None:
    repo = repo_maker.with_config("acme/wrong", architectures=["BertForNothing"])
    with pytest.raises(
        ExportUnsupported, match=r"no class BertForNothing, .*write architecture: with its name, such as"
    ):
        resolve(Entry(repo_id=repo), hub=hub)
    right = resolve(Entry(repo_id=repo, architecture="BertForSequenceClassification"), hub=hub)
    assert (right.architecture, right.completed) == ("BertForSequenceClassification", ("architectures",))
    with pytest.raises(ExportUnsupported, match=r"no class BertForMaskedML; did you mean BertForMaskedLM\?"):
        resolve(Entry(repo_id=repo, architecture="BertForMaskedML"), hub=hub)


def test_a_model_type_that_transformers_does_not_have_is_named(hub: Hub, repo_maker: RepoMaker) -> None:
    repo = repo_maker.with_config("acme/novel", architectures=["AcmeNetModel"], model_type="acme_net")
    with pytest.raises(ExportUnsupported, match=r"transformers \S+ has no model type 'acme_net' \(AcmeNetModel\)"):
        resolve(Entry(repo_id=repo), hub=hub)


_Make = Callable[[RepoMaker], str]


@pytest.mark.parametrize(
    ("make", "expected", "message"),
    [
        (lambda maker: "acme/nowhere", ModelNotFound, r"acme/nowhere@main on http.*no such model, or a private one"),
        (lambda maker: "not a valid id!", ModelNotFound, "no valid repo id.*write org/name"),
        (RepoMaker.pickle_only, UnsafeModel, r"only as pickle \(pytorch_model\.bin\).*allow_pickle: [0-9a-f]{40}"),
        (RepoMaker.without_tokenizer, ModelInvalid, r"none of vocab\.txt, tokenizer\.json, which BertTokenizer reads"),
        (
            lambda maker: maker.with_files(
                {"README.md": b"", "config.json": b'{"model_type": "bert"}'}, repo_id="acme/x"
            ),
            ModelInvalid,
            "no 'architectures', and the Hub says no task; write task: .*such as fill-mask, .*or architecture: with",
        ),
        (RepoMaker.with_remote_code, UnsafeModel, "runs Python code.*trust_remote_code: [0-9a-f]{40}"),
        (
            lambda maker: maker.with_config("acme/x", architectures=None, model_type=None),
            ModelInvalid,
            "neither 'architectures' nor 'model_type'.*write architecture: with its name, such as BertForMaskedLM",
        ),
        (lambda maker: maker.without("config.json", repo_id="acme/x"), ModelInvalid, "config.json is missing"),
        (lambda maker: maker.with_files({"config.json": b"{"}, repo_id="acme/x"), ModelInvalid, "is not JSON"),
        (lambda maker: maker.with_files({"config.json": b"[]"}, repo_id="acme/x"), ModelInvalid, "not a JSON object"),
        (lambda maker: maker.without("model.safetensors", repo_id="acme/x"), ModelInvalid, "no weights: neither"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_repo_that_cannot_be_used_is_refused_by_its_defect(
    hub: Hub, repo_maker: RepoMaker, make: _Make, expected: type[OnnxFleetError], message: str
) -> None:
    with pytest.raises(expected, match=message) as raised:
        resolve(Entry(repo_id=make(repo_maker)), hub=hub)
    assert raised.type is expected


_Files = Mapping[str, object]


@pytest.mark.parametrize(
    ("config", "files", "packed"),
    [
        ({"model_type": "roc_bert"}, ("vocab.txt", "word_shape.json", "word_pronunciation.json"), True),
        ({"model_type": "gpt_neox_japanese"}, ("vocab.txt", "emoji.json"), True),
        ({"model_type": "t5", "tokenizer_class": "ByT5Tokenizer"}, (), True),
        ({"model_type": "gpt2"}, ("vocab.txt",), False),
        ({"model_type": "mistral"}, (), False),
    ],
    ids=["roc-bert", "gpt-neox-japanese", "byt5", "gpt2-with-the-vocabulary-of-another", "mistral-without-any"],
)
def test_a_tokenizer_is_what_its_class_reads(
    hub: Hub, repo_maker: RepoMaker, config: _Files, files: tuple[str, ...], packed: bool
) -> None:
    repo = repo_maker.without("tokenizer.json", "vocab.txt", "tokenizer_config.json", repo_id="acme/own-files")
    folder = repo_maker.root / repo
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**settings, "architectures": [], "model_type": config["model_type"]})
    )
    if name := config.get("tokenizer_class"):
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    for path in files:
        (folder / path).write_text("{}")

    entry = Entry(repo_id=repo, task="feature-extraction")
    if packed:
        assert set(files) <= set(resolve(entry, hub=hub).needed)
        return
    with pytest.raises(ModelInvalid, match=r"takes text: name a revision that has one, or .*: tokenizer: none"):
        resolve(entry, hub=hub)
    assert resolve(replace(entry, tokenizer="none"), hub=hub)


def test_a_trusted_tokenizers_code_says_which_files_it_reads(hub: Hub, repo_maker: RepoMaker) -> None:
    code = b'VOCAB_FILES_NAMES = {"vocab_file": "acme.words"}\n\nclass AcmeTokenizer: ...\n'
    auto_map = {"auto_map": {"AutoTokenizer": ["tokenization_acme.AcmeTokenizer", None]}}
    files = {
        "tokenization_acme.py": code,
        "acme.words": b"a b c",
        "tokenizer_config.json": json.dumps(auto_map).encode(),
    }
    repo = repo_maker.with_files(files, repo_id="acme/own-tokenizer")
    for path in ("tokenizer.json", "vocab.txt"):
        (repo_maker.root / repo / path).unlink()
    with pytest.raises(ModelInvalid, match="no tokenizer"):
        resolve(Entry(repo_id=repo), hub=hub)

    commit = resolve(Entry(repo_id=repo, tokenizer="none"), hub=hub).commit
    assert "acme.words" in resolve(Entry(repo_id=repo, trust_remote_code=commit), hub=hub).needed


def test_a_revision_that_is_not_there_is_named(hub: Hub, repo_maker: RepoMaker) -> None:
    with pytest.raises(ModelNotFound, match=r"acme/sound@v9.*no such revision"):
        resolve(Entry(repo_id=repo_maker.sound(), revision="v9"), hub=hub)


@pytest.mark.parametrize("name", ["../config.py", "/etc/passwd", "a//b", "C:/x", "a\\b", "./x", "a/..", "bad\nname"])
def test_a_file_name_that_leaves_its_folder_is_refused(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker, name: str
) -> None:
    repo = repo_maker.with_files({"extra.txt": b"x"}, repo_id="acme/climber")
    hub_server.repos.configure(repo, Settings(listed_as={"extra.txt": name}))
    with pytest.raises(UnsafeModel, match="could leave its folder"):
        resolve(Entry(repo_id=repo), hub=hub)


def test_pickle_and_code_are_taken_at_the_very_commit_that_was_trusted(hub: Hub, repo_maker: RepoMaker) -> None:
    pickled, coded = repo_maker.pickle_only(), repo_maker.with_remote_code()
    commits = {info.id: info.sha for info in (hub.api.model_info(pickled), hub.api.model_info(coded))}
    assert "pytorch_model.bin" in resolve(Entry(repo_id=pickled, allow_pickle=commits[pickled]), hub=hub).needed
    assert "modeling_acme.py" in resolve(Entry(repo_id=coded, trust_remote_code=commits[coded]), hub=hub).needed
    with pytest.raises(UnsafeModel):
        resolve(Entry(repo_id=pickled, allow_pickle="0" * 40), hub=hub)
    with pytest.raises(UnsafeModel):
        resolve(Entry(repo_id=coded, trust_remote_code="0" * 40), hub=hub)


@pytest.mark.parametrize(
    ("architecture", "model_type", "native"),
    [
        ("NomicBertModel", "nomic_bert", True),
        ("JinaBertForMaskedLM", "bert", False),
        ("NomicBertModel", "bert", False),
    ],
)
def test_a_repos_code_is_not_needed_where_transformers_has_the_very_class(
    hub: Hub, repo_maker: RepoMaker, architecture: str, model_type: str, native: bool
) -> None:
    repo = repo_maker.with_config(
        "acme/ported",
        architectures=[architecture],
        model_type=model_type,
        auto_map={"AutoModel": f"modeling_acme.{architecture}"},
    )
    if native:
        found = resolve(Entry(repo_id=repo, task="feature-extraction"), hub=hub)
        assert not any(path.endswith(".py") for path in found.needed)
    else:
        with pytest.raises(UnsafeModel, match="runs Python code of its repo"):
            resolve(Entry(repo_id=repo, task="feature-extraction"), hub=hub)


def test_code_of_another_repo_is_never_trusted(hub: Hub, repo_maker: RepoMaker) -> None:
    repo = repo_maker.with_config("acme/x", auto_map={"AutoModel": "evil/code--modeling.Model"})
    commit = hub.api.model_info(repo).sha
    with pytest.raises(UnsafeModel, match=r"another repo \(evil/code\)"):
        resolve(Entry(repo_id=repo, trust_remote_code=commit), hub=hub)


def test_a_licence_that_is_not_allowed_is_refused(hub: Hub, repo_maker: RepoMaker) -> None:
    other = repo_maker.with_licence("other")
    none = repo_maker.with_licence(None, repo_id="acme/no-licence")
    with pytest.raises(
        LicenceRefused,
        match=r"^acme/other-licence@\w{8}: licence 'other' is not in allowed_licences; add it there or remove the ent",
    ):
        resolve(Entry(repo_id=other, allowed_licences=("apache-2.0", "mit")), hub=hub)
    with pytest.raises(LicenceRefused, match="names no licence"):
        resolve(Entry(repo_id=none, allowed_licences=("apache-2.0",)), hub=hub)
    assert resolve(Entry(repo_id=other, allowed_licences=("other",)), hub=hub).licence == "other"
    assert resolve(Entry(repo_id=none), hub=hub).licence is None


def test_a_model_that_is_too_large_is_refused(hub: Hub, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound()
    size_bytes = resolve(Entry(repo_id=repo), hub=hub).size_bytes
    assert resolve(Entry(repo_id=repo, max_bytes=size_bytes), hub=hub)
    with pytest.raises(ModelTooLarge, match=f"{size_bytes} bytes to download, max_bytes is {size_bytes - 1}"):
        resolve(Entry(repo_id=repo, max_bytes=size_bytes - 1), hub=hub)


def test_a_gated_repo_needs_a_token_that_has_access(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker) -> None:
    entry = Entry(repo_id=repo_maker.sound())
    hub_server.repos.configure(entry.repo_id, Settings(gated="manual", tokens=("hf_in",)))
    with pytest.raises(ModelGated, match=r"is gated; accept its terms on http.*/acme/sound, then give a token"):
        resolve(entry, hub=hub)
    with pytest.raises(ModelGated, match="is gated"):
        resolve(entry, hub=_with_token(hub, "hf_out"))
    assert resolve(entry, hub=_with_token(hub, "hf_in")).gated


def test_one_models_failure_stops_no_other_and_the_order_is_kept(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    first, last = repo_maker.sound("acme/z-first"), repo_maker.sound("acme/a-last")
    pickled, flaky = repo_maker.pickle_only(), repo_maker.sound("acme/flaky")
    hub_server.fail(Failure(kind="server_error", repo_id=flaky))
    told: list[str] = []

    def on_done(entry: Entry, outcome: ResolvedModel | OnnxFleetError) -> None:
        told.append(entry.repo_id)

    entries = [Entry(repo_id=repo) for repo in (first, pickled, "acme/nowhere", flaky, last)]
    resolved, refused = resolve_all(entries, hub=hub, on_done=on_done)
    assert [model.repo_id for model in resolved] == [first, last]
    assert [(refusal.repo_id, refusal.step, refusal.error) for refusal in refused] == [
        (pickled, "resolve", "UnsafeModel"),
        ("acme/nowhere", "resolve", "ModelNotFound"),
        (flaky, "resolve", "HubUnavailable"),
    ]
    assert sorted(told) == sorted(entry.repo_id for entry in entries)


def test_when_everything_fails_for_now_the_whole_is_to_be_tried_again(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    entries = [Entry(repo_id=repo_maker.sound(f"acme/m{number}")) for number in range(3)]
    hub_server.fail(Failure(kind="server_error"))
    with pytest.raises(HubUnavailable, match="acme/m0@main"):
        resolve_all(entries, hub=hub)
    assert resolve_all([], hub=hub) == ((), ())


def _modules(*kinds: str) -> bytes:
    paths = ("." if kind in ("Transformer", "WordEmbeddings") else f"{n}_{kind}" for n, kind in enumerate(kinds))
    listed = zip(kinds, paths, strict=True)
    return json.dumps(
        [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in listed]
    ).encode()


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        (("WordEmbeddings", "Normalize"), "its module WordEmbeddings has a tokenizer of its own and no transformer"),
        (("Transformer", "Router"), r"its module Router \(1_Router\) sends queries and documents"),
        (("Transformer", "Dense"), r"its module Dense \(1_Dense\) has no weights: 1_Dense/model\.safetensors"),
    ],
)
def test_a_module_that_cannot_be_exported_ends_a_model_before_its_weights_come(
    kinds: tuple[str, ...], why: str, hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    repo = repo_maker.with_files({"modules.json": _modules(*kinds)}, repo_id="acme/modules")
    if kinds[0] == "WordEmbeddings":
        (repo_maker.root / repo / "config.json").unlink()
    with pytest.raises(Permanent, match=why):
        resolve(Entry(repo_id=repo), hub=hub)
    assert hub_server.log.counts()["file-get"] == 1


def test_a_pointer_in_the_place_of_weights_is_refused_before_it_is_downloaded(
    hub: Hub, hub_server: HubServer, repo_maker: RepoMaker
) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 438\n"
    repo = repo_maker.with_files({"model.safetensors": pointer}, repo_id="acme/pointer")
    with pytest.raises(
        ModelInvalid, match=rf"BertForSequenceClassification have {len(pointer)} bytes .*Git LFS pointer"
    ):
        resolve(Entry(repo_id=repo), hub=hub)
    assert hub_server.log.counts()["file-get"] == 1  # config.json: the Hub counts no tensors of such a file


def test_a_sparse_encoder_is_loaded_with_its_scores_of_words(hub: Hub, repo_maker: RepoMaker) -> None:
    """The Hub calls it feature-extraction, whose class has no such scores."""
    config = json.loads((repo_maker.root / repo_maker.sound() / "config.json").read_bytes())
    files = {
        "config.json": json.dumps({**config, "architectures": ["BertForMaskedLM"]}).encode(),
        "README.md": b"---\nlicense: apache-2.0\npipeline_tag: feature-extraction\n---\n",
        "modules.json": _modules("MLMTransformer", "SpladePooling").replace(b"0_MLMTransformer", b""),
        "1_SpladePooling/config.json": b'{"pooling_strategy": "max"}',
    }
    repo = repo_maker.with_files(files, repo_id="acme/sparse")
    for entry in (Entry(repo_id=repo), Entry(repo_id=repo, task="feature-extraction")):
        model = resolve(entry, hub=hub)
        assert (model.task, model.architecture) == ("fill-mask", "BertForMaskedLM")
        assert "1_SpladePooling/config.json" in model.needed
