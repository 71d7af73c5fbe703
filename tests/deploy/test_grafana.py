"""The dashboard of Grafana, and the mapping that names its metrics, held to what the code and Airflow send."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fixtures.airflow import ROOT, AirflowHome

pytestmark = pytest.mark.airflow

FOLDER = ROOT / "deploy" / "grafana"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PARTS_OF_A_HISTOGRAM = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "onnx-fleet.json").read_text())
    return found


@pytest.fixture(scope="module")
def mapping() -> dict[str, dict[str, Any]]:
    """What the exporter is told, by the name that Airflow sends."""
    mappings = yaml.safe_load((FOLDER / "statsd-mapping.yaml").read_text())["mappings"]
    return {each["match"].removeprefix("airflow."): each for each in mappings}


@pytest.fixture(scope="module")
def sent(airflow_home: AirflowHome) -> dict[str, Any]:
    """The kind and the tags of every metric that is sent, ours and Airflow's own."""
    return airflow_home.ask("fixtures.sent_metrics", {}, options={})


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The title of each panel with its queries and their legends."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def metrics_in(query: str) -> set[str]:
    named = set(re.findall(r"\b(?:onnx_fleet|airflow)_[a-z_]+", query)) - {"onnx_fleet_cpu"}
    return {re.sub(f"({'|'.join(PARTS_OF_A_HISTOGRAM)})$", "", name) for name in named}


def test_the_exporter_names_every_metric_that_the_code_sends_and_none_that_nobody_sends(
    mapping: dict[str, dict[str, Any]], sent: dict[str, Any]
) -> None:
    assert sent["ours"].keys() <= mapping.keys()
    for name, told in mapping.items():
        kind = {**sent["airflow"], **sent["ours"]}[name]["kind"]
        assert (kind == "timer") == (told.get("observer_type") == "histogram"), name
        unit = {"timer": "_seconds", "counter": "_total", "gauge": "_slots"}[kind]
        assert told["name"].endswith(unit), name
        if kind == "timer":
            assert told["histogram_options"]["buckets"] == sorted(told["histogram_options"]["buckets"])


def test_every_query_asks_for_a_metric_that_the_exporter_names(
    dashboard: dict[str, Any], mapping: dict[str, dict[str, Any]]
) -> None:
    shown: set[str] = set()
    for title, query, _ in queries(dashboard):
        assert metrics_in(query), title
        shown |= metrics_in(query)
    assert shown == {told["name"] for told in mapping.values()}, "and every metric is shown"


def test_every_label_of_a_query_is_a_tag_of_its_metric(
    dashboard: dict[str, Any], mapping: dict[str, dict[str, Any]], sent: dict[str, Any]
) -> None:
    tags = {mapping[name]["name"]: set(told["tags"]) for name, told in sent["ours"].items()}
    for title, query, legend in queries(dashboard):
        by = {name for group in re.findall(r"by \(([^)]*)\)", query) for name in re.split(r",\s*", group)} - {"le"}
        asked = {*by, *re.findall(r"{{(\w+)}}", legend), *re.findall(r"{(\w+)=", query)}
        for metric in metrics_in(query) & tags.keys():
            assert asked <= tags[metric], title


def test_it_has_the_structure_that_grafana_imports(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["id"] is None, "Grafana gives it one"
    assert dashboard["uid"] == "onnx-fleet"
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, f"{panel['title']} lies over another panel"
        cells |= own
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"]
        targets = panel["targets"]
        assert len({target["refId"] for target in targets}) == len(targets)
        for target in targets:
            assert target["datasource"] == panel["datasource"]
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__range", "__rate_interval", "__interval"}
            assert used <= variables.keys()


def test_the_page_for_operators_has_every_metric_and_no_other(sent: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `(onnx_fleet\.[a-z_.]+)` \| (\w+) \| ([^|]*) \|", OPERATIONS, flags=re.MULTILINE)
    assert {(name, kind, frozenset(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows} == {
        (name, told["kind"], frozenset(told["tags"])) for name, told in sent["ours"].items()
    }
