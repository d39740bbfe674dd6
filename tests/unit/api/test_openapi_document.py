"""The OpenAPI document, the offline page, the page of error codes."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api import export_openapi
from api.openapi import page as docs_page
from api.openapi.schema import DocumentedApi
from api.schemas.requests import CreateJob
from shared import errors
from shared.errors import DreamForgeError
from shared.states import Reason

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "docs" / "openapi" / "openapi.v1.json"

BASE = "http://render.internal:8001"
DOCUMENT = export_openapi.application().openapi()
OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    (f"{method.upper()} {path}", operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_the_committed_document_is_the_current_one() -> None:
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(DOCUMENT)), "run: make openapi"


def test_an_export_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "openapi.json"
    export_openapi.main([str(target)])
    assert json.loads(target.read_text(encoding="utf-8")) == json.loads(json.dumps(DOCUMENT))

    def broken(_: DocumentedApi) -> dict[str, Any]:
        return {"a set": {1}}

    monkeypatch.setattr(DocumentedApi, "openapi", broken)
    with pytest.raises(TypeError):
        export_openapi.main([str(target)])
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert "paths" in json.loads(target.read_text(encoding="utf-8"))


def test_the_document_has_every_endpoint_of_the_contract() -> None:
    assert {name for name, _ in OPERATIONS} == {
        "POST /v1/jobs",
        "GET /v1/jobs",
        "GET /v1/jobs/{job_id}",
        "POST /v1/jobs/{job_id}/cancel",
        "DELETE /v1/jobs/{job_id}",
        "GET /v1/jobs/{job_id}/artifacts",
        "GET /v1/jobs/{job_id}/logs",
        "GET /v1/jobs/{job_id}/progress",
        "GET /v1/jobs/{job_id}/progress/stream",
        "POST /v1/images/generations",
        "POST /v1/images/edits",
        "POST /v1/inputs",
        "GET /v1/inputs/{input_id}",
        "DELETE /v1/inputs/{input_id}",
        "GET /v1/models",
        "GET /v1/models/{model_id}",
        "GET /v1/usage",
        "GET /v1/activity",
        "GET /v1/workers",
        "GET /v1/dead-letters",
        "POST /v1/dead-letters/{letter_id}/replay",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    }


def test_operation_ids_are_method_names() -> None:
    names = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_operation_documents_its_errors_in_the_envelope(
    name: str, operation: dict[str, Any]
) -> None:
    statuses = {"422", "500", "503"} | ({"404"} if "{" in name else set())
    statuses |= set() if name in {"GET /healthz", "GET /readyz"} else {"401"}
    assert statuses <= set(operation["responses"])
    for status in statuses:
        content = operation["responses"][status]["content"]["application/json"]
        openai = "/images/" in name
        shape = "OpenAIErrorOut" if openai else "Envelope"
        assert content["schema"] == {"$ref": f"#/components/schemas/{shape}"}
        for code, example in content["examples"].items():
            error = example["value"]["error"] if openai else example["value"]
            assert error["code"] == code


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_operation_but_the_probes_needs_a_key(name: str, operation: dict[str, Any]) -> None:
    needs: list[dict[str, list[str]]] = [{"ApiKey": []}]
    optional = {"GET /healthz": None, "GET /readyz": None, "GET /metrics": [*needs, {}]}
    assert operation.get("security") == optional.get(name, needs)
    assert DOCUMENT["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"


def examples_of(media: dict[str, Any]) -> list[Any]:
    named = [each["value"] for each in media.get("examples", {}).values()]
    return named + ([media["example"]] if "example" in media else [])


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a schema of the document, with what it refers to, accepts this value."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return bool(Draft202012Validator(whole).is_valid(value))


MEDIA = [
    (f"{name} {status}", kind, media)
    for name, operation in OPERATIONS
    for status, response in operation["responses"].items()
    for kind, media in response.get("content", {}).items()
]


MEDIA_OF = {where: media for where, _, media in MEDIA}


@pytest.mark.parametrize(("where", "kind", "media"), MEDIA)
def test_every_answer_has_examples_that_its_schema_accepts(
    where: str, kind: str, media: dict[str, Any]
) -> None:
    values = examples_of(media)
    assert values
    if kind == "application/json":
        assert all(accepts(media["schema"], each) for each in values)


def test_what_is_null_in_an_answer_is_null_in_its_example() -> None:
    media = MEDIA_OF["GET /v1/jobs/{job_id} 200"]
    assert media["examples"]["succeeded"]["value"]["error"] is None
    assert media["examples"]["running"]["value"]["reason"] is None


def test_every_answer_but_a_204_has_a_body() -> None:
    empty = {
        f"{name} {status}"
        for name, operation in OPERATIONS
        for status, response in operation["responses"].items()
        if "content" not in response
    }
    assert empty == {
        "GET /v1/jobs/{job_id}/progress/stream 204",
        "DELETE /v1/jobs/{job_id} 204",
        "DELETE /v1/inputs/{input_id} 204",
    }


def test_the_examples_of_a_request_are_requests() -> None:
    schema = DOCUMENT["components"]["schemas"]["CreateJob"]
    assert len(schema["examples"]) >= 3
    for example in schema["examples"]:
        assert accepts(schema, example)
        CreateJob.model_validate(example)


def test_the_example_of_a_stream_has_every_kind_of_event_and_each_is_one() -> None:
    media = MEDIA_OF["GET /v1/jobs/{job_id}/progress/stream 200"]
    messages = [
        dict(line.split(": ", 1) for line in message.splitlines())
        for message in media["example"].split("\n\n")
        if "\ndata: " in message
    ]
    inner = media["schema"]["properties"]["data"]["contentSchema"]
    place, *messages = messages
    assert (place["event"], "id" in place) == ("queue", False)
    assert accepts(media["schema"], place)
    assert accepts(inner, json.loads(place["data"]))
    assert {message["event"] for message in messages} == {"progress", "log", "artifact", "error"}
    assert [m["event"] for m in messages][-3:] == ["error", "log", "progress"]
    ids = [int(message["id"]) for message in messages]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    for message in messages:
        data = json.loads(message["data"])
        assert str(data["seq"]) == message["id"]
        assert accepts(media["schema"], message)
        assert accepts(inner, data)
        assert set(data) == set(DOCUMENT["components"]["schemas"]["Event"]["properties"])
    of_job = [json.loads(m["data"])["step_id"] for m in messages[-3:]]
    assert of_job == [None, None, None]  # the last events are the job's


def test_the_example_of_a_log_is_lines_of_its_schema() -> None:
    media = MEDIA_OF["GET /v1/jobs/{job_id}/logs 200"]
    lines = [json.loads(line) for line in media["example"].splitlines()]
    assert len(lines) >= 5
    assert all(accepts(media["schema"]["contentSchema"], line) for line in lines)
    known = set(DOCUMENT["components"]["schemas"]["LogLine"]["properties"])
    assert set().union(*lines) == known


@pytest.mark.parametrize(
    ("where", "code", "part"),
    [
        ("GET /healthz 422", "invalid_input", "X-Client-Request-Id"),
        ("GET /v1/models/{model_id} 404", "not_found", "no such model"),
        ("GET /v1/jobs/{job_id} 404", "not_found", "no such job"),
        ("GET /v1/jobs/{job_id}/progress/stream 429", "rate_limited", '"limit": "open_streams"'),
        ("GET /v1/jobs/{job_id}/progress/stream 422", "invalid_input", "Last-Event-ID"),
        ("GET /readyz 503", "infra_unavailable", '"down": ["database", "store"]'),
        ("GET /v1/jobs 422", "invalid_input", "cursor"),
        ("GET /v1/jobs/{job_id}/logs 422", "invalid_input", "since_ts"),
        ("POST /v1/jobs 429", "rate_limited", '"limit": "jobs_per_minute"'),
        ("POST /v1/jobs 422", "insufficient_vram", '"live_workers": 1'),
    ],
)
def test_an_error_is_shown_as_it_is_met_there(where: str, code: str, part: str) -> None:
    assert part in json.dumps(MEDIA_OF[where]["examples"][code]["value"])


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_answer_says_its_ids_and_every_request_may_bring_one(
    name: str, operation: dict[str, Any]
) -> None:
    for response in operation["responses"].values():
        assert {"X-Request-Id", "X-Client-Request-Id"} <= set(response["headers"])
    assert {"$ref": "#/components/parameters/ClientRequestId"} in operation["parameters"]


def test_a_create_says_where_its_job_is_and_whether_it_was_there() -> None:
    headers = DOCUMENT["paths"]["/v1/jobs"]["post"]["responses"]["202"]["headers"]
    assert {"Location", "Idempotent-Replayed"} <= set(headers)
    assert headers["Location"]["required"]


def test_every_parameter_and_every_field_of_a_request_is_described() -> None:
    fields = [
        (f"{name}.{field}", rule)
        for name in ("CreateJob", "Chain", "Upscale")
        for field, rule in DOCUMENT["components"]["schemas"][name]["properties"].items()
    ]
    parameters = [
        (f"{name} {each['name']}", each)
        for name, operation in OPERATIONS
        for each in operation["parameters"]
        if "$ref" not in each
    ]
    silent = {where for where, rule in fields + parameters if not rule.get("description")}
    assert silent == {"CreateJob.type", "Chain.upscale"}  # their values say it


def test_links_lead_to_operations_that_there_are() -> None:
    ids = {operation["operationId"] for _, operation in OPERATIONS}
    links = {
        (name, link["operationId"])
        for name, operation in OPERATIONS
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    }
    assert {operation for _, operation in links} <= ids
    followed = {"get_job", "cancel_job", "delete_job", "get_progress", "stream_progress"}
    followed |= {"get_logs", "list_artifacts"}
    for name in ("POST /v1/jobs", "GET /v1/jobs"):
        assert {target for start, target in links if start == name} == followed
    assert ("GET /v1/models", "create_job") in links


def test_no_schema_of_the_frameworks_own_errors_is_left() -> None:
    assert not {"HTTPValidationError", "ValidationError"} & set(DOCUMENT["components"]["schemas"])


def test_the_page_needs_nothing_from_anywhere() -> None:
    page = docs_page.render(DOCUMENT, BASE)
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|href=.?https?://", page)
    for name, operation in OPERATIONS:
        assert f"<code>{name.split()[1]}</code>" in page
        assert operation["summary"] in page


def test_the_page_shows_fields_answers_and_examples_and_never_a_bare_reference() -> None:
    page = unescape(docs_page.render(DOCUMENT, BASE))
    assert "$ref" not in page and "#/components" not in page
    for _, _, media in MEDIA:
        for example in examples_of(media):
            shown = example if isinstance(example, str) else json.dumps(example, indent=2)
            assert shown.strip().splitlines()[0] in page
    for model in DOCUMENT["components"]["schemas"].values():
        for field in model.get("properties", {}):
            assert f"<code>{field}</code>" in page
    for link in re.findall(r"href='#([^']+)'", page):
        assert f"id='{link}'" in page or f"id={link}>" in page


def test_the_page_shows_each_request_as_a_command() -> None:
    page = unescape(docs_page.render(DOCUMENT, BASE))
    assert f"<pre>API={BASE}\n" in page
    assert "curl -sN $API/v1/jobs/$JOB/progress/stream" in page
    assert "curl -s -X POST $API/v1/jobs/$JOB/cancel" in page
    (command,) = re.findall(r"<pre>(curl -s \$API/v1/jobs \\\n.*?)</pre>", page, flags=re.DOTALL)
    body = shlex.split(command)[-1]
    CreateJob.model_validate_json(body)


def test_the_page_escapes_what_it_shows() -> None:
    document = json.loads(json.dumps(DOCUMENT))
    document["info"]["title"] = "<script>alert(1)</script>"
    assert "<script" not in docs_page.render(document, "http://<script>")


def test_the_errors_page_has_a_section_for_every_code_and_no_other() -> None:
    declared = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, DreamForgeError)
    }
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    named = [section.splitlines()[0] for section in sections]
    assert sorted(named) == sorted(declared | {reason.value for reason in Reason})
    for section in sections:
        assert "*Retried:*" in section, section
        assert "*What to do:*" in section, section
