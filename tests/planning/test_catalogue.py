"""The catalogue: what a file asks for, and every fault of a bad one, with its line and what to write instead."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fixtures.catalogues import faults, parsed
from onnx_fleet.entities.entry import Canary, Discover, Entry, Gates, LatencyGrid, Tolerances
from onnx_fleet.errors import CatalogueInvalid
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.planning.catalogue import schema as catalogue_schema

SHA = "3f2a1c09be01d27c55aa4be1d0f2f7b61c9d8e40"


def test_a_repo_id_alone_is_an_entry_with_the_defaults() -> None:
    assert parsed("models: [acme/tiny]").entries == (Entry(repo_id="acme/tiny"),)


def test_every_setting_of_a_model_reaches_its_entry() -> None:
    (entry,) = parsed(f"""
models:
  - repo_id: acme/tiny
    revision: v1.2
    task: sentence-similarity
    recipe: mean
    variants: [fp32]
    opset: 21
    tolerances: {{atol: 5e-5, rtol: 0}}
    latency: {{batch_sizes: [2], sequence_lengths: [8, 32], warmup_runs: 0, timed_runs: 7, threads: 1,
      precision: 0.05, budget_s: 40, reuse: never, max_age_days: 7}}
    proof: full
    gates: {{policy: off, breaking: warn, max_slowdown: 1.5, max_growth: 2, max_drift: 0}}
    providers: [cpu, cuda]
    allowed_licences: [Apache-2.0, mit]
    trust_remote_code: "{SHA}"
    allow_pickle: "{SHA}"
    max_bytes: 2 GB
    priority: -3
""").entries
    assert entry == Entry(
        repo_id="acme/tiny",
        revision="v1.2",
        task="sentence-similarity",
        recipe="mean",
        variants=("fp32",),
        opset=21,
        tolerances=Tolerances(atol=5e-5, rtol=0.0),
        latency=LatencyGrid(
            batch_sizes=(2,), sequence_lengths=(8, 32), warmup_runs=0, timed_runs=7, threads=1,
            precision=0.05, budget_s=40, reuse="never", max_age_days=7,
        ),
        proof="full",
        gates=Gates(policy="off", breaking="warn", max_slowdown=1.5, max_growth=2.0, max_drift=0.0),
        providers=("cpu", "cuda"),
        allowed_licences=("apache-2.0", "mit"),
        trust_remote_code=SHA,
        allow_pickle=SHA,
        max_bytes=2_000_000_000,
        priority=-3,
    )  # fmt: skip


def test_no_key_of_a_model_is_read_and_forgotten() -> None:
    """Each key alone makes another entry; a new one has to be added here."""
    told = {
        "repo_id": "acme/other", "revision": "v2", "task": "fill-mask", "recipe": "mean", "variants": ["fp32", "int8"],
        "required_variants": ["int8"], "variant_gates": {"int8": {"min_top1": 0.5}}, "calibration": None, "opset": 21,
        "weights": "inline", "inline_max_bytes": 1, "decoder_form": "plain", "may_be_fixed": ["height"],
        "tokenizer": "none", "tokenizer_graph": True, "tolerances": {"atol": 1e-6}, "latency": {"timed_runs": 3},
        "gates": {"policy": "block"}, "providers": ["cpu", "cuda"], "allowed_licences": ["mit"], "max_bytes": 7,
            "licences_to_approve": ["gemma"],
        "priority": 1, "architecture": "BertForMaskedLM", "weights_variant": "fp16", "trust_remote_code": SHA,
        "allow_pickle": SHA, "follow_renames": False, "proof": "full",
    }  # fmt: skip
    assert set(told) == set(catalogue_schema.ModelSection.model_fields)
    plain = reader.entry({"repo_id": "acme/tiny"}, source="fleet.yaml")
    for key, value in told.items():
        if value is not None:  # calibration names a file, which has a test of its own
            assert reader.entry({"repo_id": "acme/tiny", key: value}, source="fleet.yaml") != plain, key


def test_defaults_reach_models_and_searches_unless_they_say_otherwise() -> None:
    made = parsed("""
defaults: {opset: 21, allowed_licences: [mit], latency: {timed_runs: 20}, tolerances: {atol: 1e-5},
  gates: {policy: block}}
models:
  - acme/plain
  - repo_id: acme/own
    opset: 19
    allowed_licences: null
    latency: {batch_sizes: [1]}
    gates: {max_slowdown: 1.1}
discover:
  - {author: acme, priority: 2}
""")
    plain, own = made.entries
    assert (plain.opset, plain.allowed_licences, plain.latency.timed_runs) == (21, ("mit",), 20)
    assert (own.opset, own.allowed_licences) == (19, None)
    assert own.latency == LatencyGrid(batch_sizes=(1,), timed_runs=20)
    assert own.tolerances == Tolerances(atol=1e-5)
    assert (own.gates, plain.gates) == (Gates(policy="block", max_slowdown=1.1), Gates(policy="block"))
    assert (plain.own, own.own) == ((), ("allowed_licences", "gates", "latency", "opset"))
    assert made.discover[0].entry("acme/found").own == ("priority",)
    assert (made.defaults.opset, made.defaults.repo_id) == (21, "")
    found = made.discover[0].entry("acme/found")
    assert (found.repo_id, found.opset, found.priority, found.latency.timed_runs) == ("acme/found", 21, 2, 20)


def test_a_search_says_what_to_look_for() -> None:
    (search,) = parsed("""
discover:
  - author: acme
    tags: [english, code]
    task: fill-mask
    library: transformers
    sort: likes
    limit: 3
    min_downloads: 1000
    exclude: ["*-TEST", acme/old]
""").discover
    assert search == Discover(
        author="acme",
        tags=("english", "code"),
        task="fill-mask",
        library="transformers",
        sort="likes",
        limit=3,
        min_downloads=1000,
        exclude=("*-TEST", "acme/old"),
        template=Entry(repo_id="", task="fill-mask"),
    )
    assert search.excludes("acme/some-test")
    assert not search.excludes("acme/testing")


def test_the_schemas_defaults_are_the_entrys() -> None:
    assert parsed("models: [a/b]").entries[0] == Entry(repo_id="a/b")
    assert parsed("discover: [{author: a}]").discover[0] == Discover(author="a")
    wanted = {field.name for field in fields(Entry)}
    assert wanted - {"own"} == set(catalogue_schema.ModelSection.model_fields)


@pytest.mark.parametrize(
    ("text", "canary"),
    [
        ("models: [a/b]", Canary(shares=(5, 25, 100), min_models=20)),
        ("models: [a/b]\ncanary: {shares: [5]}", Canary(shares=(5, 100))),
        ("models: [a/b]\ncanary: 5%", Canary(shares=(5, 100))),
        ("models: [a/b]\ncanary: 100 %", Canary(shares=(100,))),
        ("models: [a/b]\ncanary: {shares: [100], min_models: 2}", Canary(shares=(100,), min_models=2)),
    ],
)
def test_the_waves_of_a_change_are_shares_that_rise_to_all(text: str, canary: Canary) -> None:
    assert parsed(text).canary == canary


def test_the_digest_is_of_the_text() -> None:
    assert parsed("models: [a/b]").digest == parsed("models: [a/b]").digest
    assert parsed("models: [a/b]").digest != parsed("models: [a/b] # pinned").digest
    assert re.fullmatch("[0-9a-f]{64}", parsed("models: [a/b]").digest)


def test_aliases_are_read() -> None:
    made = parsed("models:\n- {repo_id: a/b, latency: &small {timed_runs: 5}}\n- {repo_id: a/c, latency: *small}\n")
    assert [entry.latency.timed_runs for entry in made.entries] == [5, 5]


def test_a_branch_may_look_like_a_date() -> None:
    assert parsed("models: [{repo_id: a/b, revision: 2026-01-01}]").entries[0].revision == "2026-01-01"


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [("5", 5), ("500 MB", 500_000_000), ("2GB", 2 * 10**9), ("1.5 GiB", 1610612736), ("3 kb", 3000), ("7 B", 7)],
)
def test_sizes_are_for_people(size: str, size_bytes: int) -> None:
    assert parsed(f"models: [{{repo_id: a/b, max_bytes: {size}}}]").entries[0].max_bytes == size_bytes


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("revison: main", "unknown key 'revison'; did you mean 'revision'?"),
        ("license: mit", "unknown key 'license'; did you mean 'allowed_licences'?"),
        ("xyzzy: 1", "unknown key 'xyzzy'; write one of task, recipe, variants"),
        ("revision: 1.0", "revision is 1.0, which YAML does not read as a text; put it in quotes: '1.0'"),
        ("revision: a b", "'a b' is not a revision; write a branch, a tag or a commit SHA"),
        ("revision: [main]", "revision must be a text, not a list; write a text"),
        ("task: text-clasification", "task 'text-clasification' is not known; did you mean 'text-classification'?"),
        ("task: juggling", "task 'juggling' is not known; write one of feature-extraction, sentence-similarity"),
        ("recipe: meen", "recipe 'meen' is not known; did you mean 'mean'?"),
        ("may_be_fixed: [batch_size]", "batch_size may not be fixed, because consumers choose it; write any of"),
        ("may_be_fixed: [hight]", "axis 'hight' is not known; did you mean 'height'?"),
        ("may_be_fixed: height", "may_be_fixed must be a list, not 'height'; write a list, such as [sequence_length]"),
        ("decoder_form: flat", "decoder_form 'flat' is not known; write one of merged, without-past, plain"),
        (
            "decoder_form: plain\n    task: fill-mask",
            "decoder_form 'plain' is for text2text-generation, summarization, translation, not for fill-mask; leave it",
        ),
        ("recipe: cls\n    task: fill-mask", "recipe 'cls' is for feature-extraction, sentence-similarity, not for"),
        ("variants: [fp16]", "variants lacks fp32, from which all others are made; write [fp32, …]"),
        ("variants: [fp32, fp61]", "variant 'fp61' is not known; did you mean 'fp16'?"),
        ("required_variants: [fp32]", "fp32 is always made; write any of fp16, int8"),
        ("variant_gates: {int9: {min_cosine: 0.9}}", "variant 'int9' is not known; did you mean 'int8'?"),
        ("variant_gates: {int8: {min_cosin: 0.9}}", "unknown key 'min_cosin'; did you mean 'min_cosine'?"),
        ("variant_gates: {int8: {min_cosine: 2}}", "min_cosine is 2; write a number from -1 to 1"),
        ("variant_gates: {int8: {max_layers_ratio: 3}}", "max_layers_ratio is 3; write a number from 0.05 to 1"),
        ("calibration: /etc/passwd", "calibration '/etc/passwd' is not a .txt or .jsonl file, nor a folder"),
        ("calibration: corpora/none.txt", "calibration 'corpora/none.txt' does not exist; put the file or folder"),
        ("calibration: corpora/photos", "calibration 'corpora/photos' does not exist; put the file or folder beside"),
        ("calibration: corpora/table.csv", "calibration 'corpora/table.csv' is not a .txt or .jsonl file, nor a"),
        ("variants: [fp32, fp32]", "fp32 is listed twice; list each once"),
        ("variants: fp32", "variants must be a list, not 'fp32'; write [fp32]"),
        ("variants: []", "variants is empty; write [fp32], or leave the key out"),
        ("opset: 17", "opset is 17; write a number from 18 to 23"),
        ("opset: 24", "opset is 24; write a number from 18 to 23"),
        ("opset: '20'", "opset must be a whole number, not '20'; write a whole number"),
        ("opset: 20.5", "opset must be a whole number, not '20.5'; write a whole number"),
        ("opset: true", "opset must be a whole number, not 'true'; write a whole number"),
        ("providers: [gpu, cpu]", "provider 'gpu' is not known; did you mean 'cuda'?"),
        ("providers: [cuda]", "providers has no cpu, where every bundle is validated; write [cpu, cuda]"),
        ("tolerances: 1e-3", "tolerances must be a mapping, not '1e-3'; write a mapping, such as {atol: 1e-4"),
        ("tolerances: {atol: -1}", "atol is -1; write a number from 0 to 1"),
        ("tolerances: {atol: .nan}", "atol is nan; write a finite number"),
        ("tolerances: {abs: 1}", "unknown key 'abs'; write one of atol, rtol"),
        ("latency:", "latency is empty; write a mapping, such as {batch_sizes: [1, 8]"),
        ("latency: {batch_size: [1]}", "unknown key 'batch_size'; did you mean 'batch_sizes'?"),
        ("latency: {batch_sizes: [0]}", "batch_sizes is 0; write 1 or more"),
        ("latency: {batch_sizes: 4}", "batch_sizes must be a list, not '4'; write a list of numbers, such as [1, 8]"),
        ("gates: block", "gates must be a mapping, not 'block'; write a mapping, such as {policy: block"),
        ("gates: {policy: stop}", "policy: input should be 'block', 'warn' or 'off'; write block, warn or off"),
        ("gates: {breaking: off}", "breaking: input should be 'block' or 'warn'; write block or warn"),
        ("gates: {max_slowdown: 0.9}", "max_slowdown is 0.9; write a number from 1 to 100"),
        ("gates: {max_slow: 2}", "unknown key 'max_slow'; did you mean 'max_slowdown'?"),
        ("latency: {reuse: always}", "reuse: input should be 'same_graph' or 'never'; write same_graph or never"),
        ("latency: {max_age_days: 0}", "max_age_days is 0; write a number from 1 to 3650"),
        ("latency: {precision: 5}", "precision is 5; write a number from 0.001 to 1"),
        ("latency: {timed_runs: 1}", "timed_runs is 1; write a number from 2 to 100000"),
        ("allowed_licences: mit", "allowed_licences must be a list, not 'mit'; write a list, such as [apache-2.0"),
        ("trust_remote_code: true", "trust_remote_code must be a text, not 'true'; write the commit SHA whose Python"),
        ("allow_pickle: main", "'main' is not a commit SHA; write the 40 hex digits of the one commit whose files"),
        ("max_bytes: 2 XB", "'2 XB' is not a size; write a number of bytes, or 500 MB, 2 GB, 1.5 GiB"),
        ("max_bytes: 0", "max_bytes is 0; write 1 or more"),
        ("priority: high", "priority must be a whole number, not 'high'; write a whole number"),
        ("opset: 20\n    opset: 21", "'opset' is given twice, first on line 4; remove one of them"),
        ("<<: {opset: 21}", "merge keys ('<<') are not supported; write the keys out, or put them under 'defaults'"),
    ],
)  # fmt: skip
def test_a_fault_says_what_and_what_to_write_instead(setting: str, fault: str) -> None:
    (told,) = faults(f"# fleet\nmodels:\n  - repo_id: acme/tiny\n    {setting}\n")
    line = 3 if "task: fill-mask" in setting else 5 if "opset: 21" in setting and "<<" not in setting else 4
    assert told.startswith(f"fleet.yaml:{line}: {fault}")


@pytest.mark.parametrize(("variants", "told"), [("[fp32, int8]", True), ("[fp32]", False)])
def test_texts_for_a_model_that_sees_are_a_fault_where_variants_are_wanted(variants: str, told: bool) -> None:
    """Beside that they are not there: what a task is tuned with can be said without them."""
    found = faults(
        f"defaults: {{calibration: corpora/none.txt, variants: {variants}}}\n"
        "models:\n  - repo_id: acme/tiny\n    task: image-classification\n"
    )

    assert any("image-classification is tuned with pictures; name a folder" in fault for fault in found) == told


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ("https://huggingface.co/acme/tiny/tree/main", "is an address; write the repo id: acme/tiny"),
        ("a b", "'a b' is not a repo id; write org/name, as the Hub's page shows it"),
        ("../etc/passwd", "'../etc/passwd' is not a repo id"),
        ("a/b/c", "'a/b/c' is not a repo id"),
        ("acme/x..y", "'acme/x..y' is not a repo id"),
        ("acme/-x", "'acme/-x' is not a repo id"),
        ("5", "a model is a repo id or a mapping; write - org/name, or - repo_id: org/name"),
        ("[a/b]", "a model is a repo id or a mapping"),
        ("", "a model is a repo id or a mapping"),
        ("revision: main", "no repo_id; write repo_id: org/name"),
        ("model: a/b\n    repo_id: a/b", "unknown key 'model'; did you mean 'repo_id'?"),
    ],
)
def test_a_model_must_be_a_repo_id_or_a_mapping_with_one(item: str, fault: str) -> None:
    (told,) = faults(f"models:\n  - {item}\n")
    assert told.startswith("fleet.yaml:2: ")
    assert fault in told


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        ("acme/tiny", "'acme/tiny' is listed twice, first on line 2; remove one of the two"),
        ("repo_id: acme/tiny", "'acme/tiny' is listed twice, first on line 2; remove one of the two"),
        (
            "{repo_id: acme/tiny, revision: v1}",
            "'acme/tiny' has other settings on line 2; a repo has one entry, so keep",
        ),
        ("Acme/Tiny", "'Acme/Tiny' is 'acme/tiny' of line 2 in a different case; keep one of the two"),
    ],
)
def test_a_repo_has_one_entry(second: str, fault: str) -> None:
    (told,) = faults(f"models:\n- acme/tiny\n- acme/other\n- {second}\n")
    assert told.startswith(f"fleet.yaml:4: {fault}")


@pytest.mark.parametrize(
    ("search", "fault"),
    [
        ("limit: 5", "the search would list the whole Hub; write one or more of author, tags, task, library"),
        ("{author: a, sort: download}", "sort 'download' is not known; did you mean 'downloads'?"),
        ("{author: a, limit: 0}", "limit is 0; write a number from 1 to 1000"),
        ("{author: a, min_downloads: -1}", "min_downloads is -1; write 0 or more"),
        ("{tags: english}", "tags must be a list, not 'english'; write a list, such as [english]"),
        ("{author: a, repo_id: a/b}", "unknown key 'repo_id'; write one of"),
        ("{author: a, revision: main}", "unknown key 'revision'; write one of"),
    ],
)
def test_a_search_is_checked(search: str, fault: str) -> None:
    (told,) = faults(f"discover:\n- {search}\n")
    assert told.startswith(f"fleet.yaml:2: {fault}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1: the catalogue is empty; write models: with - org/name under it"),
        ("# nothing\n", "1: the catalogue is empty; write models: with - org/name under it"),
        ("models: []", "1: the catalogue lists nothing; write models: with - org/name under it, or discover:"),
        ("models:", "1: models is empty; write a list under models:, with - org/name on each line"),
        ("models: a/b", "1: models must be a list, not 'a/b'; write a list under models:"),
        ("models: {a/b: 1}", "1: models must be a list, not a mapping; write a list under models:"),
        ("- a/b", "1: the catalogue must be a mapping, not a list; write models:, with - org/name on each line under"),
        ("models: [a/b]\nmodel: [a/c]", "2: unknown key 'model'; did you mean 'models'?"),
        ("models: [a/b]\ndefaults: 3", "2: defaults must be a mapping, not '3'; write a mapping"),
        ("models: [a/b]\ncanary: {shares: [25, 5]}", "2: shares [25, 5] do not rise; write each larger than the one"),
        ("models: [a/b]\ncanary: {shares: [0]}", "2: shares is 0; write a number from 1 to 100"),
        ("models: [a/b]\ncanary: {share: [5]}", "2: unknown key 'share'; did you mean 'shares'?"),
        (
            "models: [a/b]\ncanary: 0%",
            "2: canary must be a mapping, not '0%'; write a percentage, such as 5%, or a mapp",
        ),
        (
            "models: [a/b]\ncanary: 5",
            "2: canary must be a mapping, not '5'; write a percentage, such as 5%, or a mapping",
        ),
        ("models: [a/b]\ndefaults: {revision: v1}", "2: unknown key 'revision'; write one of"),
        ("models: [a/b", "1: the YAML cannot be read: "),
        ("models:\n\t- a/b", "2: the YAML cannot be read: a tab; indent with spaces"),
        ("models: [a/b]\n---\nmodels: [a/c]", "2: a second YAML document starts here; write one document in a file"),
        ("models:\n- *gone", "2: the YAML cannot be read: found undefined alias"),
        ("models:\n- a/b\x00", "2: the character '\\x00' is not allowed in YAML; remove it"),
        ("models: [a/b]\nmodels: [a/c]", "2: 'models' is given twice, first on line 1; remove one of them"),
    ],
)
def test_a_file_that_is_no_catalogue_is_told_where_and_why(text: str, fault: str) -> None:
    (told,) = faults(text)
    assert told.startswith(f"fleet.yaml:{fault}")


def test_every_fault_is_listed_at_once_in_the_order_of_lines() -> None:
    told = faults("""
defaults:
  opsett: 20
models:
  - acme/tiny
  - Acme/tiny
  - repo_id: a/b
    variants: [fp98, fp99]
    recipe: cls
    task: fill-mask
    opset: 9
    opset: 8
discover:
  - limit: 0
extra: 1
""")
    assert [int(line.split(":")[1]) for line in told] == [3, 6, 7, 8, 8, 11, 12, 14, 14, 15]


def test_an_anchor_that_holds_itself_is_a_fault() -> None:
    assert "fleet.yaml:1: the anchor 'a' contains itself; write the values out" in faults("models: &a [*a]")


def test_aliases_cannot_blow_up() -> None:
    levels = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 30))
    told = faults(f"b0: &b0 [x]\n{levels}models: *b29\n")
    assert any("aliases expand to more than 1,000,000 values; write fewer" in line for line in told)
    assert max(map(len, told)) < 200


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system [echo]", "!!python/name:os.system x", "!!set {a/b}"]
)
def test_tags_are_not_read(value: str) -> None:
    assert any(
        "is not supported; write the plain value without a tag" in line for line in faults(f"models:\n- {value}\n")
    )


def test_a_file_in_another_encoding_is_told_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("models:\n- acme/tiny # für\n".encode("latin-1"))
    with pytest.raises(CatalogueInvalid, match=r"latin\.yaml:2: byte 0xfc is not UTF-8; save the file as UTF-8"):
        reader.load(path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes("\ufeffmodels:\r\n- acme/tiny\r\n".encode())
    assert reader.load(path).entries == (Entry(repo_id="acme/tiny"),)


def test_a_file_that_is_not_there_or_is_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueInvalid, match="cannot be read: no such file or directory; name a YAML file"):
        reader.load(tmp_path / "none.yaml")
    with pytest.raises(CatalogueInvalid, match="cannot be read: is a directory; name a YAML file"):
        reader.load(tmp_path)


def test_an_entry_from_parameters_goes_by_the_same_rules() -> None:
    assert reader.entry({"repo_id": "a/b", "opset": 21}, source="run parameters") == Entry(repo_id="a/b", opset=21)
    with pytest.raises(CatalogueInvalid) as caught:
        reader.entry({"repo_id": "a b", "opsett": 1, "variants": ["fp23"]}, source="run parameters")
    assert sorted(caught.value.faults) == [
        "run parameters: 'a b' is not a repo id; write org/name, as the Hub's page shows it",
        "run parameters: unknown key 'opsett'; did you mean 'opset'?",
        "run parameters: variant 'fp23' is not known; did you mean 'fp32'?",
    ]
    with pytest.raises(CatalogueInvalid, match="run parameters: recipe 'cls' is for"):
        reader.entry({"repo_id": "a/b", "recipe": "cls", "task": "fill-mask"}, source="run parameters")


def test_only_selects_by_id_or_pattern_and_a_miss_is_told() -> None:
    entries = parsed("models: [acme/tiny, acme/large, other/tiny]").entries
    assert reader.select(entries, []) == entries
    assert [entry.repo_id for entry in reader.select(entries, ["*/Tiny"])] == ["acme/tiny", "other/tiny"]
    with pytest.raises(CatalogueInvalid) as caught:
        reader.select(entries, ["acme/tiny", "acme/tinny", "zzz"])
    assert caught.value.faults == (
        "only 'acme/tinny' matches no entry; did you mean 'acme/tiny'?",
        "only 'zzz' matches no entry; write one of acme/tiny, acme/large, other/tiny",
    )


def test_a_fleet_of_thousands_is_read_and_a_miss_names_only_a_few() -> None:
    entries = parsed("models:\n" + "".join(f"  - acme/model-{number}\n" for number in range(2500))).entries
    assert len(entries) == 2500
    with pytest.raises(CatalogueInvalid) as caught:
        reader.select(entries, ["zzz"])
    assert caught.value.faults[0].endswith("acme/model-19, … (2500 in all)")


def test_searches_add_what_is_not_listed_yet() -> None:
    made = parsed("""
models: [{repo_id: acme/Tiny, priority: 9}]
discover:
  - {author: acme, opset: 19, exclude: [acme/old*]}
  - {author: other, opset: 21}
""")
    found = {"acme": ["acme/tiny", "acme/new", "acme/old-1"], "other": ["acme/new", "other/x"]}
    entries = reader.expand(made, lambda search: found[search.author or ""])
    assert [(entry.repo_id, entry.opset) for entry in entries] == [("acme/Tiny", 20), ("acme/new", 19), ("other/x", 21)]
