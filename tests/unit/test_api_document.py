"""The OpenAPI document, the offline page, the page of error codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from api import docs_page, openapi
from shared import errors
from shared.errors import DreamForgeError
from shared.states import Reason

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "openapi" / "openapi.v1.json"

DOCUMENT = openapi.document()
OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    (f"{method.upper()} {path}", operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_the_committed_document_is_the_current_one() -> None:
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(DOCUMENT)), (
        "run: python -m api.openapi > docs/openapi/openapi.v1.json"
    )


def test_the_document_has_every_endpoint_of_the_contract() -> None:
    assert {name for name, _ in OPERATIONS} == {
        "POST /v1/jobs",
        "GET /v1/jobs",
        "GET /v1/jobs/{job_id}",
        "POST /v1/jobs/{job_id}/cancel",
        "GET /v1/jobs/{job_id}/artifacts",
        "GET /v1/jobs/{job_id}/logs",
        "GET /v1/jobs/{job_id}/progress",
        "GET /v1/jobs/{job_id}/progress/stream",
        "GET /v1/models",
        "GET /v1/models/{model_id}",
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
    wanted = {"422", "500", "503"} | ({"404"} if "{" in name else set())
    wanted |= set() if name in {"GET /healthz", "GET /readyz"} else {"401"}
    assert wanted <= set(operation["responses"])
    for status in wanted:
        content = operation["responses"][status]["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Envelope"}
        assert all(
            example["value"]["code"] == code for code, example in content["examples"].items()
        )


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_operation_but_the_probes_needs_a_key(name: str, operation: dict[str, Any]) -> None:
    needs: list[dict[str, list[str]]] = [{"ApiKey": []}]
    optional = {"GET /healthz": None, "GET /readyz": None, "GET /metrics": [*needs, {}]}
    assert operation.get("security") == optional.get(name, needs)
    assert DOCUMENT["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"


def test_no_schema_of_the_frameworks_own_errors_is_left() -> None:
    assert not {"HTTPValidationError", "ValidationError"} & set(DOCUMENT["components"]["schemas"])


def test_the_create_request_has_examples() -> None:
    assert DOCUMENT["components"]["schemas"]["CreateJob"]["examples"]


def test_the_page_needs_nothing_from_anywhere() -> None:
    page = docs_page.render(DOCUMENT)
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", page)
    for name, operation in OPERATIONS:
        assert f"<code>{name.split()[1]}</code>" in page
        assert operation["summary"] in page


def test_the_page_escapes_what_it_shows() -> None:
    document = json.loads(json.dumps(DOCUMENT))
    document["info"]["title"] = "<script>alert(1)</script>"
    assert "<script" not in docs_page.render(document)


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
