"""`python -m api.openapi`: the OpenAPI document, as committed to `docs/openapi/`."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import SecretStr

from api.app import create_app
from shared.settings import Settings


def document() -> dict[str, Any]:
    """The same on every machine: it depends on no setting and opens nothing."""
    unused = SecretStr("unused")
    settings = Settings.model_construct(
        database_url=SecretStr("postgresql://unused"),
        redis_url=SecretStr("redis://unused"),
        s3_endpoint="http://unused",
        s3_access_key=unused,
        s3_secret_key=unused,
    )
    return create_app(settings).openapi()


def main() -> None:
    json.dump(document(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
