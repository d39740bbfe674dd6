"""A model site on loopback, with a second host for the files, and its faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import hosts, send

MODEL, VERSION, OLD_VERSION = 4384, 128713, 109123
# How the site refuses a file without the right key; the real one has done all three.
Refusal = Literal["open", "401", "page", "message"]


@dataclass
class Site:
    """The file and the faults. Tests change the fields between requests."""

    content: bytes
    url: str = ""
    store_url: str = ""
    key: str = "a-key-of-civitai"
    refusal: Refusal = "open"
    takes_header: bool = True  # else it accepts the key only in the address
    echoes_query: bool = False  # the redirect repeats the query of the request
    model_type: str = "Checkpoint"
    availability: tuple[str, str] = ("Public", "Public")  # of the two versions, the newest first
    file: dict[str, Any] = field(default_factory=dict)  # replaces the true fields of the file
    more_files: list[dict[str, Any]] = field(default_factory=list)
    api: list[int] = field(default_factory=list)  # a status per question, then 200
    stall_s: float = 0  # a request for a file waits so long
    stalled: threading.Event = field(default_factory=threading.Event)  # a request waits
    released: threading.Event = field(default_factory=threading.Event)  # the test is over
    # (host, path, query, authorization) of each request
    seen: list[tuple[str, str, str, str | None]] = field(default_factory=list)

    def about(self) -> dict[str, Any]:
        files = [self.about_file(), *self.more_files]
        versions: list[dict[str, Any]] = [
            {"id": VERSION, "name": "8", "files": files, "baseModel": "SD 1.5"},
            {"id": OLD_VERSION, "name": "7", "files": files},
        ]
        for version, availability in zip(versions, self.availability, strict=True):
            version["availability"] = availability
        return {
            "id": MODEL,
            "name": "Dream Shaper (v8)",
            "type": self.model_type,
            "modelVersions": versions,
        }

    def about_file(self) -> dict[str, Any]:
        return {
            "name": "dreamshaper_8.safetensors",
            "type": "Model",
            "primary": True,
            "sizeKB": round(len(self.content) / 1024, 2),
            "hashes": {"SHA256": hashlib.sha256(self.content).hexdigest().upper(), "CRC32": "0"},
            "downloadUrl": f"{self.url}/api/download/models/{VERSION}?type=Model",
        } | self.file


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    with hosts(("site", "store"), partial(_respond, site)) as urls:
        site.url, site.store_url = urls["site"], urls["store"]
        yield site
        site.released.set()


def _respond(site: Site, host: str, request: BaseHTTPRequestHandler) -> None:
    where = urlsplit(request.path)
    site.seen.append((host, where.path, where.query, request.headers.get("Authorization")))
    if host == "store":
        if site.stall_s:
            site.stalled.set()
            site.released.wait(site.stall_s)
        send(request, 200, site.content)
    elif where.path.startswith("/api/v1/"):
        _api(site, request, where.path.removeprefix("/api/v1/"))
    elif where.path == "/login":
        send(request, 200, b"<!DOCTYPE html><p>Sign in", {"Content-Type": "text/html"})
    elif site.refusal == "open" or _knows(site, request, where.query):
        query = f"?{where.query}" if site.echoes_query else ""
        send(request, 307, b"", {"Location": f"{site.store_url}/signed{query}"})
    elif site.refusal == "401":
        send(request, 401, b'{"error": "Unauthorized"}', {"Content-Type": "application/json"})
    elif site.refusal == "page":
        send(request, 307, b"", {"Location": f"{site.url}/login?returnUrl=x"})
    else:
        send(request, 200, b'{"error": "Unauthorized", "message": "be logged in"}')


def _knows(site: Site, request: BaseHTTPRequestHandler, query: str) -> bool:
    header = request.headers.get("Authorization") == f"Bearer {site.key}"
    return (header and site.takes_header) or parse_qs(query).get("token") == [site.key]


def _api(site: Site, request: BaseHTTPRequestHandler, path: str) -> None:
    if site.api:
        send(request, site.api.pop(0), b"later", {"Retry-After": "0"})
        return
    answers: dict[str, Any] = {
        f"models/{MODEL}": site.about(),
        f"model-versions/{VERSION}": {"id": VERSION, "modelId": MODEL},
    }
    body = json.dumps(answers.get(path, {"error": "no such"})).encode()
    headers = {"Content-Type": "application/json"}
    send(request, 200 if path in answers else 404, body, headers)
