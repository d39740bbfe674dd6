"""`/openapi.json`, and `/docs`: the same description as one self-contained page.

No script, no font, no CDN: it works on a machine without a network, and nothing in it has to be
kept up to date. A reader who wants to click opens `/openapi.json` in a tool of their own.
"""

import json
import shlex
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from api.openapi.page_schema import (
    Schema,
    code,
    description,
    examples,
    fields,
    inline,
    kind,
    prose,
    table,
)

router = APIRouter()

_STYLE = (files("api.openapi") / "page.css").read_text(encoding="utf-8")
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_START = """API={base}

# create: answered with the job's id
curl -s $API/v1/jobs -H 'Content-Type: application/json' \\
  -d '{"type": "generate", "prompt": "a red apple"}'

# watch, to the end
curl -sN $API/v1/jobs/$JOB/progress/stream

# fetch: each picture with a URL
curl -s $API/v1/jobs/$JOB/artifacts"""
_COMMON = (
    "Every answer has an `X-Request-Id`; your own id, sent as `X-Client-Request-Id`, comes back "
    "and is recorded with the job."
)
_SHELL_NAMES = {"{job_id}": "$JOB", "{model_id}": "$MODEL", "{input_id}": "$INPUT"}
FORM = "multipart/form-data"

Operation = Mapping[str, Any]
Document = Mapping[str, Any]


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    base = str(request.base_url).rstrip("/")
    return HTMLResponse(render(request.app.openapi(), base), headers=_HEADERS)


@router.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


def render(document: Document, base: str) -> str:
    """The page for an OpenAPI document of the API at `base`, by the name that the reader used."""
    info = document["info"]
    sections: dict[str, list[str]] = {}
    links: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation["tags"][0]
            sections.setdefault(tag, []).append(_operation(document, method, path, operation))
            links.setdefault(tag, []).append(_link(operation))
    contents = "".join(f"<h2>{escape(t)}</h2><ul>{''.join(i)}</ul>" for t, i in links.items())
    operations = "".join(
        f"<h2>{escape(tag.capitalize())}</h2>{''.join(items)}" for tag, items in sections.items()
    )
    schemas = "".join(
        f"<details><summary>{inline(name)}</summary>"
        f"<div class=in id='schema-{escape(name)}'><p>{description(schema)}</p>"
        f"{fields(schema)}</div></details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        "<meta name=color-scheme content='light dark'>"
        f"<title>{escape(info['title'])}</title><style>\n{_STYLE}</style>"
        f"<nav>{contents}<h2><a href='#schemas'>schemas</a></h2></nav><main>"
        f"<h1>{escape(info['title'])}</h1><p>{prose(info['description'])}</p>"
        f"{code(_START.replace('{base}', base))}"
        f"<p class=dim>{prose(_COMMON)} For machines: "
        f"<a href='{escape(urlsplit(base).path)}/openapi.json'>/openapi.json</a></p>"
        f"{operations}<h2 id=schemas>Schemas</h2>{schemas}</main></html>"
    )


def _link(operation: Operation) -> str:
    anchor, title = escape(operation["operationId"]), escape(operation["summary"])
    return f"<li><a href='#{anchor}'>{title}</a></li>"


def _operation(document: Document, method: str, path: str, operation: Operation) -> str:
    kind, body = _body_schema(document, operation)
    # The id is inside, so that following a link to it opens the details.
    return (
        f"<details><summary><span class='m {method}'>{method.upper()}</span> "
        f"{inline(path)} <span class=dim>{escape(operation['summary'])}</span>"
        f"</summary><div class=in id='{escape(operation['operationId'])}'>"
        f"<p>{description(operation)}</p>{code(_curl(method, path, kind, body))}"
        f"{_parameters(operation)}{_body(kind, body)}{_responses(operation)}</div></details>"
    )


def _body_schema(document: Document, operation: Operation) -> tuple[str, Schema]:
    """The media type and the schema of an operation's body; an empty one if it takes none."""
    for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
        schema = media["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return media_type, dict(schema)
    return "", {}


def _curl(method: str, path: str, kind: str, body: Schema) -> str:
    """The request as a command, with the first example of its body."""
    for template, name in _SHELL_NAMES.items():
        path = path.replace(template, name)
    lines = [f"curl -s{'N' if path.endswith('/stream') else ''} $API{path}"]
    if kind == FORM:
        lines += [f"-F {_form_value(name, body)}" for name in body["required"]]
    elif body:
        example = json.dumps(body["examples"][0])
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(example)}"]
    elif method == "post":
        lines[0] = lines[0].replace("curl -s ", "curl -s -X POST ")
    if method == "delete":
        lines[0] = lines[0].replace("curl -s ", "curl -s -X DELETE ")
    return " \\\n  ".join(lines)


def _form_value(name: str, body: Schema) -> str:
    is_file = "contentMediaType" in body["properties"][name]
    return f"{name}=@picture.png" if is_file else shlex.quote(f"{name}=a green apple")


def _parameters(operation: Operation) -> str:
    rows = [
        (inline(each["name"]), escape(each["in"]), kind(each["schema"]), description(each))
        for each in operation.get("parameters", [])
        if "$ref" not in each  # those of every operation, which the top of the page has
    ]
    return f"<h3>Parameters</h3>{table(('Name', 'In', 'Type'), rows)}" if rows else ""


def _body(kind: str, schema: Schema) -> str:
    if not schema:
        return ""
    shown = "".join(map(code, schema.get("examples", ())))
    return f"<h3>Body <em>{escape(kind)}</em></h3>{fields(schema)}{shown}"


def _responses(operation: Operation) -> str:
    return "<h3>Answers</h3>" + "".join(
        f"<details{' open' if status.startswith('2') else ''}>"
        f"<summary>{inline(status)} {description(each)}</summary>"
        f"<div class=in>{_headers(each)}{_contents_of(each)}</div></details>"
        for status, each in operation["responses"].items()
    )


def _contents_of(response: Mapping[str, Any]) -> str:
    return "".join(
        f"<p class=name>{escape(media_type)}</p>{fields(media['schema'])}{examples(media)}"
        for media_type, media in response.get("content", {}).items()
    )


def _headers(response: Mapping[str, Any]) -> str:
    rows = [
        (inline(name), kind(header["schema"]), description(header))
        for name, header in response.get("headers", {}).items()
        if "$ref" not in header
    ]
    return table(("Header", "Type"), rows) if rows else ""
