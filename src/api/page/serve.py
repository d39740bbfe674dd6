"""`/` and the files that it loads.

They are read once and sent as they are: nothing is built, and nothing comes from another host. The
page needs no key, since it shows nothing by itself; its requests to the API do.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from api.context import Ctx
from api.page.policy import content_security_policy
from api.schemas.ids import no_such_file

router = APIRouter()

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    media_type: str
    etag: str


def _read() -> Mapping[str, File]:
    """Every file by its name."""
    folder = files("api.page") / "static"
    return {
        each.name: File(
            content := each.read_bytes(),
            _TYPES[each.name.rpartition(".")[2]],
            f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        )
        for each in folder.iterdir()
    }


FILES = _read()


@router.get("/", include_in_schema=False)
async def page(request: Request, context: Ctx) -> Response:
    answer = _answer(request, FILES["index.html"])
    answer.headers["Content-Security-Policy"] = content_security_policy(context.settings)
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    return answer


@router.get("/page/{name}", include_in_schema=False)
async def file(name: str, request: Request) -> Response:
    if name not in FILES or name == "index.html":
        raise no_such_file()
    return _answer(request, FILES[name])


def _answer(request: Request, found: File) -> Response:
    """The file, or 304: a browser keeps it, and asks each time whether it is still the same."""
    headers = {"ETag": found.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
