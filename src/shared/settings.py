"""Every setting of both services, read once at start from `DF_*` variables and a secrets folder.

A process builds `Settings` in its entry point and hands parts of it down; nothing reads the
environment later. A wrong value stops the process with one line that names the variable
(`settings_or_exit`), never with a silent default.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from shared.addresses import check_broker, check_database
from shared.auth import ApiKey, parse_api_keys
from shared.environment import ENCODING, ENV_FILE, read_env_file
from shared.presets import PresetError, presets
from shared.printable import escape_controls
from shared.protocol.frames import MAX_BODY_BYTES
from shared.protocol.messages import JPEG_QUALITY, Quality
from shared.secrets import SECRETS_DIR, secrets_in
from shared.settings_checks import (
    Collector,
    HostNames,
    ListenHost,
    Origin,
    RootPath,
    WebOrigins,
    check_headers,
    headers_of,
)
from shared.settings_removed import describe_removed
from shared.settings_sources import WithoutBlanks
from shared.settings_types import (
    Bucket,
    Bytes,
    Count,
    Folder,
    Name,
    Region,
    Seconds,
    StoreKey,
)
from shared.tags import parse_tag_keys
from shared.users import EVERYONE, Serves, UserPolicy, check_known, parse_serves, parse_users
from shared.webhooks import Network, WebhookSecret, parse_networks, parse_secrets


class Settings(BaseSettings):
    """Settings of `api`, `worker` and the command line. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_prefix="DF_",
        env_file=ENV_FILE,
        env_file_encoding=ENCODING,
        secrets_dir=SECRETS_DIR if SECRETS_DIR.is_dir() else None,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Infrastructure ------------------------------------------------------------------------------
    database_url: SecretStr = Field(description="postgresql://user:password@host:port/database")
    redis_url: SecretStr = Field(description="redis://:password@host:port/0, the Celery broker")
    s3_endpoint: Origin = Field(description="http(s)://host:port of the S3-compatible store")
    s3_public_endpoint: Origin | None = Field(
        default=None, description="the store's address as clients see it; presigned URLs use it"
    )
    s3_access_key: StoreKey
    s3_secret_key: StoreKey
    s3_bucket: Bucket = "dreamforge"
    s3_region: Region = "us-east-1"
    presign_ttl_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600)
    startup_timeout_s: Seconds = Field(
        default=30.0, ge=0, description="how long a start waits for PostgreSQL and the store"
    )

    previews: bool = Field(
        default=True, description="show what is being sampled to clients that look"
    )

    # API -----------------------------------------------------------------------------------------
    api_host: ListenHost = "127.0.0.1"
    api_port: int = Field(default=8001, ge=0, le=65535)
    api_processes: int = Field(
        default=1, ge=1, le=64, description="api processes of this host that share the port"
    )
    root_path: RootPath = Field(
        default="", description="path below which a proxy serves the api, and which it takes off"
    )
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field(
        default=(),
        repr=False,
        description="name:sha256hex,…; the name is the user of the key's jobs",
    )
    admin_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="names of keys that see the usage of all users"
    )
    usage_tags: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="keys of tags by whose values usage is counted too"
    )
    allowed_hosts: Annotated[HostNames, NoDecode] = Field(
        default=(), description="names that an API without keys answers to, beside loopback ones"
    )
    cors_origins: Annotated[WebOrigins, NoDecode] = Field(
        default=(), description="origins of web pages that may read our answers"
    )
    max_jobs_per_minute: Count = Field(default=0, ge=0, description="per user; 0: no bound")
    max_unfinished_jobs: Count = Field(
        default=10_000, ge=0, description="per user, waiting and running; 0: no bound"
    )
    max_input_bytes: int = Field(
        default=50_000_000, ge=1 << 10, le=MAX_BODY_BYTES, description="of a picture that is sent"
    )
    max_streams: Count = Field(
        default=1000, ge=0, description="streams, waits and uploads of a process; 0: no bound"
    )
    users: Annotated[tuple[UserPolicy, ...], NoDecode] = Field(
        default=(), description="weight, priorities and bounds of single users, or of `*`"
    )
    idempotency_ttl_s: Seconds = Field(default=24 * 3600.0, gt=0)
    webhook_secrets: Annotated[tuple[WebhookSecret, ...], NoDecode] = Field(
        default=(), repr=False, description="name:whsec_…,…; whose jobs may report, signed with it"
    )
    webhook_private: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(), description="networks that webhooks may reach beside the public internet"
    )

    # Worker --------------------------------------------------------------------------------------
    worker_host: ListenHost = Field(
        default="127.0.0.1", description="beyond loopback it needs API keys"
    )
    worker_port: int = Field(default=8002, ge=0, le=65535)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$")
    cpu_slots: int = Field(default=1, ge=1, le=64)
    runner_start: str = Field(
        default="auto",
        pattern=r"^(auto|template|spawn)$",
        description="auto: forked from a template on a CPU, spawned on a GPU",
    )
    sandbox: str = Field(
        default="auto",
        pattern=r"^(auto|require|off)$",
        description="what the kernel keeps from runners: what it can, on CPU slots; all; nothing",
    )
    standby: bool = Field(default=True, description="keep one imported runner ready per slot")
    warm_bytes: Bytes | None = Field(
        default=None, ge=0, description="host memory for warm models; unset: a quarter of the host"
    )
    warm_s: Seconds = Field(
        default=900.0, gt=0, description="how long a model stays warm that no step uses"
    )
    lock_dir: Folder = Path("/tmp/dreamforge-locks")  # noqa: S108 - one well-known place per host
    drain_s: Seconds = Field(default=30.0, ge=0)
    serves: Annotated[Serves, NoDecode] = Field(
        default=Serves(), description="priorities and users that the worker is kept for"
    )

    # Steps --------------------------------------------------------------------------------------
    vram_wait_s: Seconds = Field(default=300.0, ge=0)
    vram_factor: float = Field(
        default=1.0, gt=0, le=10, description="corrects every preset's estimate of memory"
    )
    max_passed_s: Seconds = Field(
        default=600.0, gt=0, description="how long steps of higher priorities may pass one"
    )
    queue_timeout_s: Seconds = Field(default=24 * 3600.0, gt=0)
    max_timeout_s: Seconds = Field(default=3600.0, gt=0, description="upper bound of `timeout_s`")
    max_attempts: Count = Field(default=3, ge=1)
    max_losses: Count = Field(default=5, ge=1)
    spool_bytes: Bytes = Field(default=1 << 30, ge=1 << 20)

    # Models --------------------------------------------------------------------------------------
    models_dir: Folder = Path(".dreamforge/models")
    default_model: Name | None = Field(default=None, description="name used when a job names none")
    presets_dir: Folder | None = Field(default=None, description="the operator's own presets")

    # Retention -----------------------------------------------------------------------------------
    retain_artifacts_s: Seconds = Field(
        default=24 * 3600.0, gt=0, description="pictures, from the end of their job"
    )
    retain_inputs_s: Seconds = Field(
        default=24 * 3600.0,
        ge=60,
        description="pictures that were sent, from the end of the last job that names them",
    )
    retain_events_s: Seconds = Field(
        default=7 * 24 * 3600.0, gt=0, description="events and log lines, from the end of their job"
    )
    retain_jobs_s: Seconds = Field(
        default=30 * 24 * 3600.0, gt=0, description="ended jobs with all that is left of them"
    )
    retain_usage_s: Seconds = Field(
        default=730 * 24 * 3600.0, gt=0, description="what each user used on a day, from that day"
    )

    # Pictures ------------------------------------------------------------------------------------
    jpeg_quality: Quality = JPEG_QUALITY

    # Seeing inside ------------------------------------------------------------------------------
    log_level: str = Field(default="INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    otlp_endpoint: Collector | None = Field(
        default=None, description="base address of an OTLP/HTTP collector; set: traces are on"
    )
    otlp_headers: SecretStr | None = Field(
        default=None, description="name=value,…; what the collector wants to see, a token as a rule"
    )
    trace_ratio: float = Field(
        default=0.1, ge=0, le=1, description="the share of requests that are traced, at most"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The usual sources in the usual order."""
        usual = (init_settings, env_settings, dotenv_settings, file_secret_settings)
        return tuple(map(WithoutBlanks, usual))

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

    @field_validator("users", mode="before")
    @classmethod
    def _users(cls, value: Any) -> Any:
        return parse_users(value or "") if value is None or isinstance(value, str) else value

    @field_validator("usage_tags", mode="before")
    @classmethod
    def _tag_keys(cls, value: Any) -> Any:
        return parse_tag_keys(value or "") if value is None or isinstance(value, str) else value

    @field_validator("webhook_secrets", mode="before")
    @classmethod
    def _secrets(cls, value: Any) -> Any:
        return parse_secrets(value or "") if value is None or isinstance(value, str) else value

    @field_validator("webhook_private", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        return parse_networks(value or "") if value is None or isinstance(value, str) else value

    @field_validator("serves", mode="before")
    @classmethod
    def _serves(cls, value: Any) -> Any:
        return parse_serves(value or "") if value is None or isinstance(value, str) else value

    @field_validator("presets_dir")
    @classmethod
    def _presets_are_right(cls, value: Path | None) -> Path | None:
        try:
            presets(value)
        except PresetError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("otlp_headers")
    @classmethod
    def _headers(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(check_headers(value.get_secret_value()))

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr) -> SecretStr:
        return SecretStr(check_database(value.get_secret_value()))

    @field_validator("redis_url")
    @classmethod
    def _broker(cls, value: SecretStr) -> SecretStr:
        return SecretStr(check_broker(value.get_secret_value()))

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
    def _users_have_keys(self) -> Self:
        keys = {key.name for key in self.api_keys}
        named = [user.name for user in self.users if user.name != EVERYONE]
        check_known("DF_USERS", named, keys)
        check_known("DF_WEBHOOK_SECRETS", [secret.name for secret in self.webhook_secrets], keys)
        if keys:  # a worker on a loopback address may have none
            check_known("DF_SERVES", self.serves.users, keys)
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

    def policy_of(self, user: str) -> UserPolicy:
        """What this user may have, with the bounds for everyone where it has none of its own."""
        by_name = {each.name: each for each in self.users}
        policy = by_name.get(user) or by_name.get(EVERYONE) or UserPolicy()
        unfinished, per_minute = policy.unfinished, policy.per_minute
        return replace(
            policy,
            name=user,
            unfinished=self.max_unfinished_jobs if unfinished is None else unfinished,
            per_minute=self.max_jobs_per_minute if per_minute is None else per_minute,
        )

    def webhook_keys_of(self, user: str) -> list[bytes]:
        """What this user's messages are signed with; none: the user has no webhooks."""
        return [secret.key for secret in self.webhook_secrets if secret.name == user]

    @property
    def otlp_headers_sent(self) -> Mapping[str, str]:
        """What goes to the collector with each batch. Secret."""
        return {} if self.otlp_headers is None else headers_of(self.otlp_headers.get_secret_value())


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


def _configured_names() -> set[str]:
    """The variables of all three places that `Settings` reads."""
    return {*os.environ, *read_env_file(), *secrets_in(SECRETS_DIR)}


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
        what = "" if secret.filename == str(ENV_FILE) else ", a secret"
        lines.append(f"{secret.filename}{what}: {secret.strerror}")
    for line in lines:
        sys.stderr.write(f"{program}: {escape_controls(line)}\n")
    raise SystemExit(2)


def forget_secrets() -> None:
    """Take every `DF_*` variable out of our environment, so that no child process inherits one."""
    for name in [name for name in os.environ if name.startswith("DF_")]:
        del os.environ[name]
