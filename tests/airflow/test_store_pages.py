"""The pages of the store in Airflow's own server: who may see them, what they are, and that they lead nowhere else."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from fixtures.airflow import AirflowHome
from onnx_fleet.runs import report_page, run_report
from onnx_fleet.runs.record import Record
from onnx_fleet.store import ObjectStore, layout, open_store
from onnx_fleet_demo.s3_server import EmbeddedS3

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

VERSION = "3f2a1c00-9d1e44b7"
BUNDLE = layout.bundle_prefix("acme/tiny", VERSION)
PASSWORD = "a-password-that-nobody-reads"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>fetch("/api/v2/dags")</script></svg>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Airflow's server before a store with one run's report."""

    home: AirflowHome
    store: ObjectStore
    options: Mapping[str, str]
    report: str
    """The address of the report's page."""

    def get(self, path: str, **request: str) -> dict[str, Any]:
        return self.ask({"method": "GET", "path": path, **request})[0]

    def ask(self, *requests: Mapping[str, object]) -> list[dict[str, Any]]:
        found = self.home.ask("fixtures.airflow_web", {"requests": list(requests)}, options=self.options)
        answers: list[dict[str, Any]] = found["answers"]
        return answers


@pytest.fixture(scope="module")
def site(airflow_home: AirflowHome, s3_server: EmbeddedS3) -> Site:
    address = f"{s3_server.address}/pages-{uuid.uuid4().hex}"
    store = open_store(address, s3=s3_server.settings)
    records = [
        Record(model_id="acme/tiny", state="published", version=VERSION, location=f"{address}/{BUNDLE}"),
        Record(model_id="acme/broken", state="failed", step="validate", error="ValidationFailed", message="off by 1"),
    ]
    store.create(f"{run_report.kept_prefix('run', 'acme/broken')}validation.svg", SVG)
    store.create(f"{BUNDLE}manifest.json", b"{}")
    store.create(f"{BUNDLE}reports/validation.svg", SVG)
    for key in (f"{BUNDLE}tokenizer.json", "feed/index.json", "models/acme/tiny/channels/latest.json"):
        store.create(key, b'"not for this server"')
    made = run_report.build(records, run_id="run", now=datetime.now(UTC))
    connection = {
        "conn_type": "aws",
        "login": "onnx-fleet",
        "password": PASSWORD,
        "extra": {"endpoint_url": s3_server.endpoint_url, "region_name": "us-east-1"},
    }
    return Site(
        home=airflow_home,
        store=store,
        options={
            "AIRFLOW__ONNX_FLEET__STORE": address,
            "AIRFLOW__ONNX_FLEET__AWS_CONN_ID": "pages_store",
            "AIRFLOW_CONN_PAGES_STORE": json.dumps(connection),
        },
        report=f"/onnx-fleet/store/{report_page.key_of(run_report.write(made, store=store))}",
    )


def test_a_report_opens_in_a_browser_and_its_links_lead_to_pages(site: Site) -> None:
    page = site.get(site.report)
    assert (page["status"], page["headers"]["content-type"]) == (200, "text/html; charset=utf-8")
    assert "acme/broken" in page["text"]
    assert "off by 1" in page["text"]
    links = re.findall(r'href="([^"]+)"', page["text"])
    assert [link.rpartition("/")[2] for link in links] == ["validation.svg"], "of the one that failed"
    for link in links:
        assert site.get(urljoin(site.report, link))["status"] == 200


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (f"{BUNDLE}manifest.json", "application/json"),
        (f"{BUNDLE}reports/validation.svg", "image/svg+xml"),
        ("reports/run.json", "application/json"),
    ],
)
def test_a_page_runs_nothing_that_a_publisher_put_there(site: Site, key: str, kind: str) -> None:
    page = site.get(f"/onnx-fleet/store/{key}")
    headers = page["headers"]
    assert (page["status"], headers["content-type"]) == (200, kind)
    assert page["text"].encode() == site.store.read(key)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "script-src" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "private" in headers["cache-control"]


def test_pages_are_for_those_who_have_signed_in(site: Site) -> None:
    for path in (site.report, "/onnx-fleet/store/feed/index.json", "/onnx-fleet/store/"):
        assert site.get(path, user="nobody")["status"] == 401
        assert site.get(path, user="forger")["status"] == 403


def test_nothing_but_pages_is_shown_and_nothing_is_written(site: Site) -> None:
    keys = [
        f"{BUNDLE}tokenizer.json",
        "feed/index.json",
        "models/acme/tiny/channels/latest.json",
        "reports/%2e%2e/feed/index.json",
        "reports/..%2ffeed%2findex.json",
        "reports/%2e%2e/%2e%2e/secret.json",
        "%2fetc/passwd",
        f"models/acme/%2e%2e/{VERSION}/manifest.json",
        "reports/run.html%00",
        "reports/run.md",
        "reports/none.html",
        "",
    ]
    for key in keys:
        answer = site.get(f"/onnx-fleet/store/{key}")
        assert answer["status"] == 404, key
        assert "not for this server" not in answer["text"], key
    before = [info.key for info in site.store.list("")]
    written = site.ask(*({"method": method, "path": site.report, "json": {}} for method in ("POST", "PUT", "DELETE")))
    assert [answer["status"] for answer in written] == [405, 405, 405]
    assert [info.key for info in site.store.list("")] == before
    for path in ("/onnx-fleet/docs", "/onnx-fleet/openapi.json", "/onnx-fleet/redoc"):
        assert site.get(path)["status"] == 404


def test_a_store_that_cannot_be_read_is_no_secret_told(site: Site, tmp_path: Path) -> None:
    request = {"method": "GET", "path": site.report}
    options = {**site.options, "AIRFLOW__ONNX_FLEET__AWS_CONN_ID": "nowhere"}
    [answer] = site.home.ask("fixtures.airflow_web", {"requests": [request]}, options=options)["answers"]
    assert answer["status"] == 500
    assert "StoreDenied" in answer["text"]
    assert "nowhere" not in answer["text"]
    answers = [site.get(site.report), answer]
    assert not [each for each in answers if PASSWORD in json.dumps(each)]


def test_links_hold_behind_a_base_url_with_a_path(site: Site) -> None:
    asked = [{"method": "GET", "path": "/airflow/"}, {"method": "GET", "path": f"/airflow{site.report}"}]
    options = {**site.options, "AIRFLOW__API__BASE_URL": "http://airflow.test/airflow"}
    found = site.home.python("fixtures.airflow_web", json.dumps(asked), options=options)
    front, page = found["answers"]  # type: ignore[misc]
    [base] = re.findall(r'<base href="([^"]+)"', front["text"])
    link = site.report.removeprefix("/")
    assert urljoin(f"http://airflow.test{base}", link) == f"http://airflow.test/airflow{site.report}"
    assert page["status"] == 200
    assert "acme/broken" in page["text"]
