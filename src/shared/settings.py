"""Every setting of both services, read once at start from `DF_*` variables and a secrets folder.

A process builds `Settings` in its entry point and hands parts of it down; nothing reads the
environment later. A wrong value stops the process with one line that names the variable
(`settings_or_exit`), never with a silent default.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

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


# Bounds of a worker's end that are no settings; `test_stop_grace` holds them against their owners.
# A claim's transaction that was begun before SIGTERM (`shared.db.engine`).
CLAIM_IN_FLIGHT_S = 20.0
# A question to a GPU that hangs is not cut off by its step's deadline
# (`supervisor.devices.nvml_client`).
READING_IN_FLIGHT_S = 22.0
# Standbys 10, whatever else lives 5, the good-bye 20, NVML helpers 2. Then the process ends at
# once: it waits for no child that does not die, and for no thread of an upload that was given up.
LEAVING_S = 10.0 + 5.0 + 20.0 + 2.0

# How far apart two looks at a tree may be that is to be gone (`supervisor.processes.child`).
LEAST_MARGIN_S = 0.2


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
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="names that an API without keys answers to, beside loopback ones"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins of web pages that may read our answers"
    )
    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    max_jobs_per_minute: int = Field(default=0, ge=0, description="per user; 0: no bound")
    max_unfinished_jobs: int = Field(
        default=10_000, ge=0, description="per user, waiting and running; 0: no bound"
    )
    max_streams: int = Field(
        default=1000, ge=0, description="open progress streams of one process; 0: no bound"
    )
    idempotency_ttl_s: float = Field(default=24 * 3600.0, gt=0)
    doorbell_timeout_s: float = Field(default=1.0, gt=0, le=1.0)

    # Worker --------------------------------------------------------------------------------------
    worker_host: str = Field(default="127.0.0.1", description="beyond loopback it needs API keys")
    worker_port: int = Field(default=8002, ge=0, le=65535)
    queues: Annotated[tuple[str, ...], NoDecode] = ("default",)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$")
    cpu_slots: int = Field(default=1, ge=1, le=64)
    standby: bool = Field(default=True, description="keep one imported runner ready per slot")
    lock_dir: Path = Path("/tmp/dreamforge-locks")  # noqa: S108 - one well-known place per host
    poll_s: float = Field(default=1.0, gt=0)
    drain_s: float = Field(default=30.0, ge=0)

    # Lease and kill chain ------------------------------------------------------------------------
    lease_s: float = Field(default=60.0, gt=0)
    lease_renew_s: float = Field(default=10.0, gt=0)
    lease_margin_s: float = Field(
        default=5.0, description="what is left for signals and for clocks to disagree"
    )
    ready_timeout_s: float = Field(default=120.0, gt=0, description="spawn until READY")
    exit_grace_s: float = Field(default=5.0, gt=0, description="RESULT until the process is gone")
    term_grace_s: float = Field(default=5.0, gt=0, description="SIGTERM until SIGKILL")
    kill_deadline_s: float = Field(default=10.0, gt=0, description="SIGKILL until `unkillable`")
    reclaim_deadline_s: float = Field(default=30.0, gt=0, description="tree gone until quarantine")
    publish_deadline_s: float = Field(default=300.0, gt=0)
    vram_wait_s: float = Field(default=300.0, ge=0)
    vram_factor: float = Field(
        default=1.0, gt=0, le=10, description="corrects every preset's estimate of memory"
    )
    queue_timeout_s: float = Field(default=24 * 3600.0, gt=0)
    max_timeout_s: float = Field(default=3600.0, gt=0, description="upper bound of `timeout_s`")
    max_attempts: int = Field(default=3, ge=1)
    max_losses: int = Field(default=5, ge=1)
    retry_base_s: float = Field(default=2.0, gt=0)
    retry_cap_s: float = Field(default=60.0, gt=0)
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

    @field_validator("queues", "allowed_hosts", "cors_origins", mode="before")
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

    @field_validator("lease_margin_s")
    @classmethod
    def _margin_is_one(cls, value: float) -> float:
        if not value >= LEAST_MARGIN_S:  # nor is NaN
            raise ValueError(
                f"must be at least {LEAST_MARGIN_S:g} s: a runner that was killed in time is only "
                "seen to be gone so much later, and the lease must not have ended by then"
            )
        return value

    @model_validator(mode="after")
    def _clocks_leave_a_margin(self) -> Self:
        fence = self.fence_s
        if fence <= self.lease_renew_s:
            raise ValueError(
                f"DF_LEASE_S={self.lease_s:g} leaves no time to run: a lease must be longer than "
                "DF_LEASE_RENEW_S + DF_TERM_GRACE_S + DF_KILL_DEADLINE_S + DF_LEASE_MARGIN_S = "
                f"{self.lease_s - fence + self.lease_renew_s:g} s"
            )
        if self.deadman_s < fence:
            raise ValueError(
                "DF_TERM_GRACE_S + DF_KILL_DEADLINE_S must be at least DF_LEASE_MARGIN_S="
                f"{self.lease_margin_s:g}, or a runner's own timer would fire before we stop it"
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
        found = {}
        for each in _listed(self.otlp_headers) if self.otlp_headers is not None else ():
            name, _, value = each.partition("=")
            found[name.strip()] = value.strip()
        return found

    @property
    def orphan_age_s(self) -> float:
        """From which age on an object that no row names is nobody's: no upload waits so long.

        The hour is for the clocks of the store and of whoever prunes to disagree.
        """
        return self.lease_s + self.publish_deadline_s + 3600.0

    @property
    def fence_s(self) -> float:
        """How long after a renewal was *sent* a runner may still live (DESIGN: two clocks)."""
        return self.lease_s - (self.term_grace_s + self.kill_deadline_s + self.lease_margin_s)

    @property
    def deadman_s(self) -> float:
        """How long after a renewal was sent a runner's own timer kills it.

        Later than the fence, so that a living worker stops its runner in an orderly way, and
        before the lease ends, so that a stopped worker's runner is gone when somebody else starts.
        """
        return self.lease_s - 2 * self.lease_margin_s

    @property
    def stop_grace_s(self) -> float:
        """The longest a worker takes to end after SIGTERM: a container's stop grace."""
        return (
            CLAIM_IN_FLIGHT_S
            + self.drain_s
            + self.exit_grace_s
            + self.term_grace_s
            + self.kill_deadline_s
            + self.reclaim_deadline_s
            + READING_IN_FLIGHT_S
            + self.publish_deadline_s
            + self.lease_s  # the verdict is offered to an absent database for this long
            + LEAVING_S
        )


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


def settings_or_exit(program: str) -> Settings:
    """Read the settings or end the process with exit code 2 and a line per mistake."""
    try:
        return Settings()
    except ValidationError as error:
        lines = describe(error)
    except SettingsError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        secret = error.__cause__  # mounted, and not for our user to read
        lines = [f"{secret.filename}, a secret: {secret.strerror}"]
    for line in lines:
        sys.stderr.write(f"{program}: {line}\n")
    raise SystemExit(2)


def forget_secrets() -> None:
    """Take every `DF_*` variable out of our environment, so that no child process inherits one."""
    for name in [name for name in os.environ if name.startswith("DF_")]:
        del os.environ[name]
