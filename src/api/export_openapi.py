"""`python -m api.export_openapi [FILE]`: the OpenAPI document, as committed to `docs/openapi/`.

Into a file it goes whole or not at all: a shell's redirection would empty the file first, and leave
it so when the document cannot be made.
"""

import json
import sys
from pathlib import Path

from fastapi import FastAPI
from pydantic import SecretStr

from api.app import create_app
from shared.settings import Settings


def application() -> FastAPI:
    """The API as it is described: the same on every machine, and it opens nothing."""
    unused = SecretStr("unused")
    settings = Settings.model_construct(
        database_url=SecretStr("postgresql://unused"),
        redis_url=SecretStr("redis://unused"),
        s3_endpoint="http://unused",
        s3_access_key=unused,
        s3_secret_key=unused,
    )
    return create_app(settings)


def main(arguments: list[str]) -> None:
    text = json.dumps(application().openapi(), indent=2, ensure_ascii=False) + "\n"
    if not arguments:
        sys.stdout.write(text)
        return
    target = Path(arguments[0])
    draft = target.with_name(f".{target.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)


if __name__ == "__main__":
    main(sys.argv[1:])
