"""`/docs`: the API's own description as one self-contained page.

No script, no font, no CDN: it works on a machine without a network, and there is nothing in it to
keep up to date. Whoever wants to click opens `/openapi.json` in a tool of their own.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from api.openapi.page_schema import code, examples, fields, kind, prose

router = APIRouter()

_STYLE = """
:root{--ink:#1c1c22;--dim:#5c5c68;--paper:#fff;--soft:#f4f4f7;--line:#dcdce3;--link:#2851c8;
--get:#1a7f4b;--post:#a4540a}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ee;--dim:#a2a2b0;--paper:#17171c;
--soft:#22222a;--line:#3a3a44;--link:#9ab8ff;--get:#6fd39e;--post:#f0b070}}
*{box-sizing:border-box}html{scroll-padding-top:5rem}
body{font:16px/1.55 system-ui,sans-serif;margin:0;color:var(--ink);background:var(--paper)}
main{max-width:58rem;padding:1.5rem 1.5rem 6rem}a{color:var(--link)}
nav{font-size:.9rem;padding:1.5rem;border-bottom:1px solid var(--line)}
nav ul{list-style:none;padding:0;margin:.25rem 0 1rem}nav li{margin:.15rem 0}
nav a{text-decoration:none}nav a:hover{text-decoration:underline}
nav h2{font-size:.75rem;text-transform:uppercase;letter-spacing:.06em;color:var(--dim);margin:0}
@media(min-width:72rem){body{display:grid;grid-template-columns:17rem 1fr}
nav{position:sticky;top:0;height:100vh;overflow:auto;border:0;border-right:1px solid var(--line)}}
h1{margin:0 0 .5rem}h2{margin:2.5rem 0 .5rem}h3{margin:1.25rem 0 .25rem;font-size:1rem}
details{border:1px solid var(--line);border-radius:8px;margin:.6rem 0}
summary{cursor:pointer;padding:.6rem .9rem}
details[open]>summary{border-bottom:1px solid var(--line)}
.in{padding:.4rem .9rem .9rem}.dim{color:var(--dim)}
.m{display:inline-block;min-width:3.2rem;font:600 .8rem ui-monospace,monospace}
.get{color:var(--get)}.post{color:var(--post)}
code{font:.9em ui-monospace,monospace}
pre{background:var(--soft);padding:.75rem;overflow:auto;border-radius:6px;margin:.4rem 0;
font:.82rem/1.45 ui-monospace,monospace;max-height:28rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}
td,th{text-align:left;padding:.35rem .6rem .35rem 0;border-top:1px solid var(--line);
vertical-align:top}tr:first-child th{border:0;color:var(--dim);font-weight:500}
em{color:var(--dim);font-size:.85em}.name{margin:.6rem 0 0;color:var(--dim);font-size:.9rem}
"""
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
_SHELL_NAMES = {"{job_id}": "$JOB", "{model_id}": "$MODEL"}

Operation = Mapping[str, Any]
Document = Mapping[str, Any]


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    base = str(request.base_url).rstrip("/")
    return HTMLResponse(render(request.app.openapi(), base), headers=_HEADERS)


def render(document: Document, base: str) -> str:
    """The page for an OpenAPI document of the API at `base`, by the name that the reader used."""
    info = document["info"]
    start = code(_START.replace("{base}", base))
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    sections = "".join(
        f"<h2>{escape(tag.capitalize())}</h2>"
        + "".join(_operation(document, *each) for each in operations if tag in each[2]["tags"])
        for tag in _tags(operations)
    )
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary>"
        f"<div class=in id='schema-{escape(name)}'><p>{prose(schema.get('description', ''))}</p>"
        f"{fields(schema)}</div></details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        "<meta name=color-scheme content='light dark'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<nav>{_contents(operations)}</nav><main>"
        f"<h1>{escape(info['title'])}</h1><p>{prose(info['description'])}</p>{start}"
        f"<p class=dim>{prose(_COMMON)} For machines: <a href='/openapi.json'>/openapi.json</a></p>"
        f"{sections}<h2 id=schemas>Schemas</h2>{schemas}</main></html>"
    )


def _tags(operations: list[tuple[str, str, Operation]]) -> list[str]:
    return list(dict.fromkeys(operation["tags"][0] for _, _, operation in operations))


def _contents(operations: list[tuple[str, str, Operation]]) -> str:
    return "".join(
        f"<h2>{escape(tag)}</h2><ul>"
        + "".join(_entry(each) for _, _, each in operations if tag in each["tags"])
        + "</ul>"
        for tag in _tags(operations)
    ) + ("<h2><a href='#schemas'>schemas</a></h2>")


def _entry(operation: Operation) -> str:
    anchor, title = escape(operation["operationId"]), escape(operation["summary"])
    return f"<li><a href='#{anchor}'>{title}</a></li>"


def _operation(document: Document, method: str, path: str, operation: Operation) -> str:
    # The id is inside, so that following a link to it opens the details.
    return (
        f"<details><summary><span class='m {method}'>{method.upper()}</span> "
        f"<code>{escape(path)}</code> <span class=dim>{escape(operation['summary'])}</span>"
        f"</summary><div class=in id='{escape(operation['operationId'])}'>"
        f"<p>{prose(operation.get('description', ''))}</p>"
        f"{code(_curl(method, path, operation, document))}"
        f"{_parameters(operation)}{_body(document, operation)}"
        f"{_responses(operation)}</div></details>"
    )


def _curl(method: str, path: str, operation: Operation, document: Document) -> str:
    """The request as a command, with the first example of its body."""
    for template, name in _SHELL_NAMES.items():
        path = path.replace(template, name)
    lines = [f"curl -s{'N' if path.endswith('/stream') else ''} $API{path}"]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if method == "post" and body is None:
        lines[0] = lines[0].replace("curl -s ", "curl -s -X POST ")
    if body is not None:
        example = _resolved(document, body["schema"])["examples"][0]
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(example))}"]
    return " \\\n  ".join(lines)


def _parameters(operation: Operation) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
        f"<td>{kind(each['schema'])}</td><td>{prose(each.get('description', ''))}</td></tr>"
        for each in operation.get("parameters", [])
        if "$ref" not in each  # those of every operation, which the top of the page has
    )
    if not rows:
        return ""
    return f"<h3>Parameters</h3><table><tr><th>Name<th>In<th>Type<th></tr>{rows}</table>"


def _body(document: Document, operation: Operation) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    return "".join(
        f"<h3>Body <em>{escape(media_type)}</em></h3>{fields(schema)}"
        f"{''.join(map(code, schema.get('examples', [])))}"
        for media_type, media in content.items()
        for schema in [_resolved(document, media["schema"])]
    )


def _responses(operation: Operation) -> str:
    return "<h3>Answers</h3>" + "".join(
        f"<details{' open' if status.startswith('2') else ''}>"
        f"<summary><code>{escape(status)}</code> {prose(each['description'])}</summary>"
        f"<div class=in>{_headers(each)}{_contents_of(each)}</div></details>"
        for status, each in operation["responses"].items()
    )


def _contents_of(response: Mapping[str, Any]) -> str:
    return "".join(
        f"<p class=name>{escape(media_type)}</p>{fields(media['schema'])}{examples(media)}"
        for media_type, media in response.get("content", {}).items()
    )


def _headers(response: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind(header['schema'])}</td>"
        f"<td>{prose(header.get('description', ''))}</td></tr>"
        for name, header in response.get("headers", {}).items()
        if "$ref" not in header
    )
    return f"<table><tr><th>Header<th>Type<th></tr>{rows}</table>" if rows else ""


def _resolved(document: Document, item: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` into the document stands for; anything else as it is."""
    if "$ref" not in item:
        return item
    found: Any = document
    for name in item["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    resolved: Mapping[str, Any] = found
    return resolved
