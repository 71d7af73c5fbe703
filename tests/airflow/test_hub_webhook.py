"""The endpoint for webhooks of the Hub in Airflow's own server: who may use it, what it starts, and what it bears."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fixtures.airflow import AirflowHome

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

PATH = "/onnx-fleet/webhook/hub"
SECRET = "a-secret-of-this-deployment"
OLD = "the-secret-before-it"
CATALOGUE = """
models:
  - acme/tiny
  - repo_id: acme/tagged
    revision: v2
  - gpt2
"""


def event(
    repo: str = "acme/tiny",
    commit: str | None = "1" * 40,
    *,
    ref: str = "refs/heads/main",
    action: str = "update",
    scope: str = "repo.content",
    kind: str = "model",
) -> dict[str, Any]:
    """An event as the Hub sends it, with fields that its client does not know."""
    url = {"web": f"https://huggingface.co/{repo}", "api": f"https://huggingface.co/api/models/{repo}"}
    about = {"type": kind, "name": repo, "id": "621ffdc0", "private": False, "url": url, "owner": {"id": "628b7532"}}
    return {
        "event": {"action": action, "scope": scope},
        "repo": {**about, "headSha": "9" * 40},
        "config": {},
        "updatedRefs": [{"ref": ref, "oldSha": "0" * 40, "newSha": commit}],
        "webhook": {"id": "6390e855", "version": 3},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Airflow's server with a catalogue and a connection that has the secret."""

    home: AirflowHome
    catalogue: Path
    connection: Mapping[str, object]
    said: list[str] = field(default_factory=list)
    """What was answered and logged."""

    def options(self, **options: str) -> dict[str, str]:
        return {
            "AIRFLOW__ONNX_FLEET__CATALOGUE": str(self.catalogue),
            "AIRFLOW__ONNX_FLEET__WEBHOOK_CONN_ID": "hub_webhook",
            "AIRFLOW_CONN_HUB_WEBHOOK": json.dumps(self.connection),
            **options,
        }

    def ask(self, *requests: Mapping[str, object], **options: str) -> list[dict[str, Any]]:
        asked = {"requests": list(requests)}
        answers: list[dict[str, Any]] = self.home.ask("fixtures.airflow_web", asked, options=self.options(**options))[
            "answers"
        ]
        self.said.extend([json.dumps(answers), (self.home.folder / "asked.log").read_text()])
        return answers

    def post(self, sent: object = None, *, secret: str | None = SECRET, **options: str) -> tuple[int, dict[str, Any]]:
        headers = {} if secret is None else {"X-Webhook-Secret": secret}
        body = {"json": event() if sent is None else sent}
        [found] = self.ask({"method": "POST", "path": PATH, "user": "nobody", "headers": headers, **body}, **options)
        answer: dict[str, Any] = json.loads(found["text"])
        return found["status"], answer

    def end(self, run_id: str) -> None:
        """Have a run be through, as a person does in Airflow."""
        path = f"/api/v2/dags/fleet_reexport/dagRuns/{run_id}"
        [done] = self.ask({"method": "PATCH", "path": path, "json": {"state": "success"}})
        assert done["status"] == 200, done

    def runs(self) -> dict[str, dict[str, Any]]:
        """The runs of fleet_reexport that were started for this catalogue."""
        path = "/api/v2/dags/fleet_reexport/dagRuns?run_id_pattern=webhook__%25&order_by=id&limit=100"
        [found] = self.ask({"method": "GET", "path": path})
        runs = [run for run in json.loads(found["text"])["dag_runs"] if run["conf"]["catalogue"] == str(self.catalogue)]
        return {run["dag_run_id"]: {"state": run["state"], "conf": run["conf"]} for run in runs}

    def raw(self, request: bytes) -> bytes:
        """What the server answers to bytes on a socket, until it or the caller has enough."""
        found = self.home.ask("fixtures.airflow_web", {"requests": [], "on_socket": True}, options=self.options())
        with socket.create_connection(("127.0.0.1", found["port"]), timeout=30) as connection:
            connection.sendall(request)
            return connection.recv(65536)


@pytest.fixture
def endpoint(airflow_home: AirflowHome, tmp_path: Path) -> Endpoint:
    (tmp_path / "catalogue.yaml").write_text(CATALOGUE)
    connection = {"conn_type": "generic", "password": SECRET, "extra": {"old_secret": OLD}}
    return Endpoint(home=airflow_home, catalogue=tmp_path / "catalogue.yaml", connection=connection)


def test_a_push_starts_one_run_for_its_model_however_often_it_is_told(endpoint: Endpoint) -> None:
    first, second, third = (str(digit) * 40 for digit in (1, 2, 3))
    run_id = f"webhook__acme--tiny__{first}"
    assert endpoint.post(event(commit=first)) == (202, {"state": "started", "run_id": run_id})
    assert endpoint.runs()[run_id] == {
        "state": "queued",
        "conf": {"catalogue": str(endpoint.catalogue), "only": ["acme/tiny"], "allow_unmatched": True},
    }
    already = (200, {"state": "already", "run_id": run_id})
    assert endpoint.post(event(commit=first)) == already
    assert endpoint.post(event(commit=second)) == already, "the run that waits takes what is the newest then"
    assert list(endpoint.runs()) == [run_id]
    endpoint.end(run_id)
    assert endpoint.post(event(commit=first)) == already, "an old event that is sent again"
    later = f"webhook__acme--tiny__{third}"
    assert endpoint.post(event(commit=third)) == (202, {"state": "started", "run_id": later})
    assert endpoint.post(event("ACME/Tagged", ref="refs/tags/v2"))[1]["state"] == "started"
    assert endpoint.post(event("openai-community/gpt2"))[1]["run_id"] == f"webhook__gpt2__{first}"
    assert len(endpoint.runs()) == 4
    endpoint.end(later)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (event("acme/other"), "the catalogue does not list acme/other"),
        (event(ref="refs/pr/1"), "nothing was pushed to revision main of acme/tiny"),
        (event("acme/tagged"), "nothing was pushed to revision v2 of acme/tagged"),
        (event(commit=None), "nothing was pushed to revision main of acme/tiny"),
        (event(action="delete", scope="repo"), "delete of repo of a model is no new content of a model"),
        (event(scope="discussion.comment"), "update of discussion.comment of a model is no new content of a model"),
        (event(kind="dataset"), "update of repo.content of a dataset is no new content of a model"),
        (event(kind="bucket"), "repo.type: Input should be 'dataset', 'model' or 'space'"),
    ],
)
def test_an_event_that_changes_no_model_of_the_catalogue_starts_nothing(
    endpoint: Endpoint, sent: dict[str, Any], reason: str
) -> None:
    assert endpoint.post(sent) == (202, {"state": "ignored", "reason": reason})
    assert endpoint.runs() == {}


def test_nobody_without_the_secret_is_heard_and_nobody_is_told_it(endpoint: Endpoint) -> None:
    statuses = {given: endpoint.post(secret=given)[0] for given in (None, "", SECRET[:-1], SECRET + "x")}
    assert statuses == {None: 401, "": 403, SECRET[:-1]: 403, SECRET + "x": 403}
    assert endpoint.runs() == {}
    assert endpoint.post(event("acme/other"), secret=OLD)[0] == 202, "while it is exchanged, the old one counts too"
    no_secret = json.dumps({"conn_type": "generic"})
    missing = {
        endpoint.post(AIRFLOW__ONNX_FLEET__WEBHOOK_CONN_ID="")[0],
        endpoint.post(AIRFLOW__ONNX_FLEET__WEBHOOK_CONN_ID="nowhere")[0],
        endpoint.post(secret="", AIRFLOW_CONN_HUB_WEBHOOK=no_secret)[0],
    }
    assert missing == {404, 503}
    [signed_in] = endpoint.ask({"method": "POST", "path": PATH, "user": "admin", "json": event()})
    assert signed_in["status"] == 401, "a person of Airflow's is not the Hub"
    assert not [told for told in endpoint.said if SECRET in told or OLD in told]


def test_a_catalogue_with_faults_is_no_secret_told(endpoint: Endpoint) -> None:
    endpoint.catalogue.write_text("models: [acme/tiny\n")
    assert endpoint.post() == (503, {"detail": "the catalogue cannot be read; the api-server's log says why"})
    assert f"{endpoint.catalogue}:" in endpoint.said[-1]
    endpoint.catalogue.write_text("models: [acme/later]\n")
    assert endpoint.post(event("acme/later"))[0] == 202, "it is read again when it has changed"


def test_a_body_that_is_no_event_is_refused(endpoint: Endpoint) -> None:
    for sent in ("{", [], {"event": {}}, {**event(), "webhook": {"id": "1", "version": 2}}):
        status, answer = endpoint.post(sent)
        assert status == 422
        assert answer["detail"].startswith("this is no event of the Hub's webhooks, version 3: ")
    assert endpoint.post({**event(), "comment": "x" * 65536})[0] == 413


def test_no_body_is_read_beyond_the_limit_whatever_its_headers_say(endpoint: Endpoint) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: airflow.test\r\nX-Webhook-Secret: {SECRET}\r\n".encode()
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    endless = endpoint.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + 3 * chunk)
    assert endless.startswith(b"HTTP/1.1 413"), "it is answered before its last chunk"
    large = endpoint.raw(head + b"Content-Length: 1000000000\r\n\r\n" + b" " * 70000)
    assert large.startswith(b"HTTP/1.1 413")
    short = endpoint.raw(head + b"Content-Length: 9\r\n\r\n" + json.dumps(event()).encode())
    assert short.split()[1] in (b"400", b"422"), "the rest of it is no event either"
    unknown = f"POST {PATH} HTTP/1.1\r\nHost: airflow.test\r\nContent-Length: 1000000000\r\n\r\n".encode()
    assert endpoint.raw(unknown).startswith(b"HTTP/1.1 401"), "and of a stranger's, nothing"
    assert endpoint.runs() == {}


def test_more_events_than_a_server_takes_are_told_when_to_come_again(endpoint: Endpoint) -> None:
    request = {
        "method": "POST",
        "path": PATH,
        "user": "nobody",
        "headers": {"X-Webhook-Secret": SECRET},
        "json": event("acme/other"),
    }
    answers = endpoint.ask(*[request] * 61)
    assert answers[0]["status"] == 202
    assert answers[-1]["status"] == 429
    assert 0 < int(answers[-1]["headers"]["retry-after"]) <= 60
    assert endpoint.post(secret="a guess")[0] == 403, "a stranger takes nobody's turn"
