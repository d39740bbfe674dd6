"""Checks of single settings that need more than a type and bounds. Each raises `ValueError`.

The types at the end are those of the fields that are checked so.
"""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from shared.addresses import ORIGIN, check_host, check_http, check_origin

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_HEADER = re.compile(r"\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+\s*=[\x20-\x7e]*")
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")


def check_path(path: str) -> str:
    """A path, which is "" or begins with a slash; returned without a last slash."""
    if not _PATH.fullmatch(path.rstrip("/")):
        raise ValueError("must be a path like /pictures, of letters, digits and . _ ~ -")
    return path.rstrip("/")


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of hosts as a client sends them."""
    for name in names:
        if not _HOST.fullmatch(name):
            raise ValueError(
                "must be names like render.internal, separated by commas: lower case, without "
                "a port, and none of them `*`"
            )
    return names


def check_web_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Origins of web pages. A browser sends exactly this form, and we compare letter by letter."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                "must be origins like https://app.example.org, separated by commas: lower "
                "case, without a path, and none of them `*`"
            )
        scheme, _, port = origin.rpartition(":")
        if (scheme.partition(":")[0], port) in {("http", "80"), ("https", "443")}:
            raise ValueError(f"a browser leaves the default port {port} out of an origin")
    return origins


def check_collector(address: str) -> str:
    """The base address of a collector of traces, without a last slash."""
    parts = check_http(address, f"{ORIGIN}, a path may follow")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be an address alone; a token belongs into DF_OTLP_HEADERS")
    if address.rstrip("/").endswith("/v1/traces"):
        raise ValueError("must be the base address: /v1/traces is added to it")
    if not _is_installed(_EXPORTER):
        raise ValueError("needs OpenTelemetry: install dreamforge[otel], or unset it")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        raise ValueError("is set, and OTEL_SDK_DISABLED=true says the opposite")
    return address.rstrip("/")


def check_headers(text: str) -> str:
    """`name=value,…`."""
    if not all(map(_HEADER.fullmatch, _listed(text))):
        raise ValueError("must be name=value, separated by commas")
    return text


def headers_of(text: str) -> Mapping[str, str]:
    """The headers that `check_headers` accepted."""
    pairs = (each.partition("=") for each in _listed(text))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _listed(headers: str) -> list[str]:
    return [part for part in headers.split(",") if part.strip()]


def _is_installed(name: str) -> bool:
    """It is not imported: only what traces needs it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # nor is what it lies in
        return False


# A field of one of these types is checked, and keeps what its check returns.
Origin = Annotated[str, AfterValidator(check_origin)]
ListenHost = Annotated[str, AfterValidator(check_host)]
RootPath = Annotated[str, BeforeValidator(lambda value: value or ""), AfterValidator(check_path)]
HostNames = Annotated[tuple[str, ...], AfterValidator(check_names)]
WebOrigins = Annotated[tuple[str, ...], AfterValidator(check_web_origins)]
Collector = Annotated[str, AfterValidator(check_collector)]
