"""Every setting of both services, read once at start from `DF_*` variables and a secrets folder.

A process builds `Settings` in its entry point and hands parts of it down; nothing reads the
environment later. A wrong value stops the process with one line that names the variable
(`settings_or_exit`), never with a silent default.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from shared.auth import ApiKey, parse_api_keys
from shared.presets import PresetError, presets
from shared.protocol.messages import JPEG_QUALITY, JpegQuality
from shared.secrets import SECRETS_DIR

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_HEADER = re.compile(r"\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+\s*=[\x20-\x7e]*")
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")


_LEASE = "the timings of leases are fixed, because each follows from the others"
_STOP = "the timings of stopping a step are fixed; DF_DRAIN_S is for how long steps may go on"
_RETRY = "the pauses between tries are fixed; DF_MAX_ATTEMPTS bounds how many there are"
# Settings that are gone, and what an operator should know who has one of them.
REMOVED: Mapping[str, str] = {
    "DF_DOORBELL_TIMEOUT_S": "a notification may take one second",
    "DF_EXIT_GRACE_S": _STOP,
    "DF_KILL_DEADLINE_S": _STOP,
    "DF_LEASE_MARGIN_S": _LEASE,
    "DF_LEASE_RENEW_S": _LEASE,
    "DF_LEASE_S": _LEASE,
    "DF_MAX_BODY_BYTES": "a request may have 1 MiB, of which a valid one needs a few kilobytes",
    "DF_POLL_S": "a free slot looks for work once a second",
    "DF_PUBLISH_DEADLINE_S": "finished pictures wait 300 s for a store that is away",
    "DF_QUEUES": "there is one queue, and every worker serves it",
    "DF_READY_TIMEOUT_S": "a runner may take 120 s to start",
    "DF_RECLAIM_DEADLINE_S": _STOP,
    "DF_RETRY_BASE_S": _RETRY,
    "DF_RETRY_CAP_S": _RETRY,
    "DF_TERM_GRACE_S": _STOP,
}


class Settings(BaseSettings):
    """Settings of `api`, `worker` and the command line. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_prefix="DF_",
        env_file=".env",
        secrets_dir=SECRETS_DIR if SECRETS_DIR.is_dir() else None,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Infrastructure ------------------------------------------------------------------------------
    database_url: SecretStr = Field(description="postgresql://user:password@host:port/database")
    redis_url: SecretStr = Field(description="redis://:password@host:port/0, the Celery broker")
    s3_endpoint: str = Field(description="http(s)://host:port of the S3-compatible store")
    s3_public_endpoint: str | None = Field(
        default=None, description="the store's address as clients see it; presigned URLs use it"
    )
    s3_access_key: SecretStr
    s3_secret_key: SecretStr
    s3_bucket: str = "dreamforge"
    s3_region: str = "us-east-1"
    presign_ttl_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600)
    startup_timeout_s: float = Field(
        default=30.0, ge=0, description="how long a start waits for PostgreSQL and the store"
    )

    # API -----------------------------------------------------------------------------------------
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8001, ge=0, le=65535)
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field(
        default=(),
        repr=False,
        description="name:sha256hex,…; the name is the user of the key's jobs",
    )
    admin_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="names of keys that see the usage of all users"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="names that an API without keys answers to, beside loopback ones"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins of web pages that may read our answers"
    )
    max_jobs_per_minute: int = Field(default=0, ge=0, description="per user; 0: no bound")
    max_unfinished_jobs: int = Field(
        default=10_000, ge=0, description="per user, waiting and running; 0: no bound"
    )
    max_streams: int = Field(
        default=1000, ge=0, description="open progress streams of one process; 0: no bound"
    )
    idempotency_ttl_s: float = Field(default=24 * 3600.0, gt=0)

    # Worker --------------------------------------------------------------------------------------
    worker_host: str = Field(default="127.0.0.1", description="beyond loopback it needs API keys")
    worker_port: int = Field(default=8002, ge=0, le=65535)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$")
    cpu_slots: int = Field(default=1, ge=1, le=64)
    standby: bool = Field(default=True, description="keep one imported runner ready per slot")
    lock_dir: Path = Path("/tmp/dreamforge-locks")  # noqa: S108 - one well-known place per host
    drain_s: float = Field(default=30.0, ge=0)

    # Steps --------------------------------------------------------------------------------------
    vram_wait_s: float = Field(default=300.0, ge=0)
    vram_factor: float = Field(
        default=1.0, gt=0, le=10, description="corrects every preset's estimate of memory"
    )
    queue_timeout_s: float = Field(default=24 * 3600.0, gt=0)
    max_timeout_s: float = Field(default=3600.0, gt=0, description="upper bound of `timeout_s`")
    max_attempts: int = Field(default=3, ge=1)
    max_losses: int = Field(default=5, ge=1)
    spool_bytes: int = Field(default=1 << 30, ge=1 << 20)

    # Models --------------------------------------------------------------------------------------
    models_dir: Path = Path(".dreamforge/models")
    default_model: str | None = Field(default=None, description="name used when a job names none")
    presets_dir: Path | None = Field(default=None, description="the operator's own presets")

    # Retention -----------------------------------------------------------------------------------
    retain_artifacts_s: float = Field(
        default=24 * 3600.0, gt=0, description="pictures, from the end of their job"
    )
    retain_events_s: float = Field(
        default=7 * 24 * 3600.0, gt=0, description="events and log lines, from the end of their job"
    )
    retain_jobs_s: float = Field(
        default=30 * 24 * 3600.0, gt=0, description="ended jobs with all that is left of them"
    )
    retain_usage_s: float = Field(
        default=730 * 24 * 3600.0, gt=0, description="what each user used on a day, from that day"
    )

    # Pictures ------------------------------------------------------------------------------------
    jpeg_quality: JpegQuality = JPEG_QUALITY

    # Seeing inside ------------------------------------------------------------------------------
    log_level: str = Field(default="INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    otlp_endpoint: str | None = Field(
        default=None, description="base address of an OTLP/HTTP collector; set: traces are on"
    )
    otlp_headers: SecretStr | None = Field(
        default=None, description="name=value,…; what the collector wants to see, a token as a rule"
    )
    trace_ratio: float = Field(
        default=0.1, ge=0, le=1, description="the share of requests that are traced, at most"
    )

    @field_validator("admin_keys", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if value is None:
            return ()
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return parse_api_keys(value or "")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST.fullmatch(name):
                raise ValueError(
                    "must be names like render.internal, separated by commas: lower case, without "
                    "a port, and none of them `*`"
                )
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # A browser sends it in exactly this form, and we compare letter by letter.
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "must be origins like https://app.example.org, separated by commas: lower "
                    "case, without a path, and none of them `*`"
                )
            scheme, _, port = origin.rpartition(":")
            if (scheme.partition(":")[0], port) in {("http", "80"), ("https", "443")}:
                raise ValueError(f"a browser leaves the default port {port} out of an origin")
        return value

    @field_validator("presets_dir", "otlp_endpoint", "otlp_headers", mode="before")
    @classmethod
    def _none_when_empty(cls, value: Any) -> Any:
        return value or None

    @field_validator("presets_dir")
    @classmethod
    def _presets_are_right(cls, value: Path | None) -> Path | None:
        try:
            presets(value)
        except PresetError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be http://host:port or https://host:port, a path may follow")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must be an address alone; a token belongs into DF_OTLP_HEADERS")
        if value.rstrip("/").endswith("/v1/traces"):
            raise ValueError("must be the base address: /v1/traces is added to it")
        if not _importable(_EXPORTER):
            raise ValueError("needs OpenTelemetry: install dreamforge[otel], or unset it")
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            raise ValueError("is set, and OTEL_SDK_DISABLED=true says the opposite")
        return value.rstrip("/")

    @field_validator("otlp_headers")
    @classmethod
    def _headers(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(map(_HEADER.fullmatch, _listed(value))):
            raise ValueError("must be name=value, separated by commas")
        return value

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: SecretStr) -> SecretStr:
        if urlsplit(value.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("must be postgresql://user:password@host:port/database")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        if urlsplit(value.get_secret_value()).scheme not in {"redis", "rediss"}:
            raise ValueError("must be redis://:password@host:port/0")
        return value

    @field_validator("s3_endpoint", "s3_public_endpoint")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError("must be http://host:port or https://host:port")
        if parts.path not in {"", "/"} or parts.query:
            raise ValueError("must be an origin without a path")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _admins_have_keys(self) -> Self:
        names = [key.name for key in self.api_keys]
        for name in self.admin_keys:
            if name not in names:
                raise ValueError(
                    f"DF_ADMIN_KEYS: {name!r} is the name of no key in DF_API_KEYS; there are: "
                    f"{', '.join(names) or 'none'}"
                )
        return self

    @model_validator(mode="after")
    def _jobs_are_kept_longest(self) -> Self:
        for name in ("retain_artifacts_s", "retain_events_s", "idempotency_ttl_s"):
            least = getattr(self, name)
            if self.retain_jobs_s < least:
                raise ValueError(
                    f"DF_RETAIN_JOBS_S={self.retain_jobs_s:g} must be at least "
                    f"DF_{name.upper()}={least:g}: what belongs to a job goes with it"
                )
        return self

    @property
    def otlp_headers_sent(self) -> Mapping[str, str]:
        """What goes to the collector with each batch. Secret."""
        headers = {}
        for each in _listed(self.otlp_headers) if self.otlp_headers is not None else ():
            name, _, value = each.partition("=")
            headers[name.strip()] = value.strip()
        return headers


def _importable(name: str) -> bool:
    """Whether it is installed. It is not imported: only what traces needs it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # nor is what it lies in
        return False


def _listed(headers: SecretStr) -> list[str]:
    return [part for part in headers.get_secret_value().split(",") if part.strip()]


def describe(error: ValidationError) -> list[str]:
    """One line per wrong setting, in the operator's words: variable, problem."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        name = "".join(f"DF_{part}".upper() for part in item["loc"][:1])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            what = "is not set"
            if SECRETS_DIR.is_dir():  # in a container: that is where it was meant to be
                what += f", and there is no {SECRETS_DIR / name.lower()}"
        lines.append(f"{name}: {what}" if name else what)
    return lines


def describe_removed(names: Iterable[str]) -> list[str]:
    """One line for each of these variables that was a setting once."""
    gone = sorted({name.upper() for name in names} & REMOVED.keys())
    return [f"{name} is no setting any more: {REMOVED[name]}. Remove it" for name in gone]


def _configured_names() -> set[str]:
    """The variables of all three places that `Settings` reads."""
    secrets = SECRETS_DIR.iterdir() if SECRETS_DIR.is_dir() else ()
    return {*os.environ, *dotenv_values(".env"), *(path.name for path in secrets)}


def settings_or_exit(program: str) -> Settings:
    """Read the settings or end the process with exit code 2 and a line per mistake."""
    lines: list[str] = []
    try:
        lines += describe_removed(_configured_names())
        settings = Settings()
        if not lines:
            return settings
    except ValidationError as error:
        lines += describe(error)
    except (OSError, SettingsError) as error:
        secret = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(secret, OSError):  # else mounted, and not for our user to read
            raise
        lines.append(f"{secret.filename}, a secret: {secret.strerror}")
    for line in lines:
        sys.stderr.write(f"{program}: {line}\n")
    raise SystemExit(2)


def forget_secrets() -> None:
    """Take every `DF_*` variable out of our environment, so that no child process inherits one."""
    for name in [name for name in os.environ if name.startswith("DF_")]:
        del os.environ[name]
