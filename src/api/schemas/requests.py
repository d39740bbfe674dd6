"""What clients send. Unknown fields are refused and types are not converted: a typing mistake that
is ignored would make another picture than its author wants."""

import re
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from api.schemas.pagination import CURSOR_PATTERN, USAGE_CURSOR_PATTERN
from api.schemas.responses import Level
from shared.addresses import check_http
from shared.limits import (
    MAX_COUNT,
    MAX_GUIDANCE,
    MAX_LORA_SCALE,
    MAX_LORAS,
    MAX_PROMPT,
    MAX_REFERENCES,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
)
from shared.models.descriptor import Capability
from shared.models.families import SCHEDULERS
from shared.models.picture_tasks import DEFAULT_STRENGTH
from shared.states import Status
from shared.tags import MAX_TAG_VALUE, MAX_TAGS, TAG_KEY
from shared.webhooks import WebhookEvent

MAX_NAME_CHARACTERS = 256
# The form in which we hand ids out.
ID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
MAX_URL = 2048
MAX_PAGE = 200
MAX_TAIL = 10_000
MAX_USAGE_PAGE = 1000

if TYPE_CHECKING:
    Scheduler = str
else:  # pydantic lists the names of the registry, which a type checker cannot read
    Scheduler = Literal[SCHEDULERS]


# The largest number up to which a JSON number and a float are the same one.
MAX_EXACT = 2**53


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """20.0 is 20, as in JSON Schema: several languages write every number with a point."""
        if not isinstance(data, dict):
            return data
        return {name: _as_whole(value) for name, value in data.items()}


def _as_whole(value: Any) -> Any:
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT
    return int(value) if is_whole else value


def _storable(text: str) -> str:
    """Refuse what PostgreSQL cannot store: NUL, and what has no UTF-8 form."""
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates (half of a UTF-16 pair)") from None
    return text


Storable = Annotated[
    str, AfterValidator(_storable), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})
]
Text = Annotated[Storable, Field(max_length=MAX_PROMPT)]
Name = Annotated[Storable, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


def _of_form(pattern: str, words: str) -> AfterValidator:
    """Refuse what has not this form, in words: few readers know what a pattern says."""
    form = re.compile(pattern)

    def check(text: str) -> str:
        if form.fullmatch(text) is None:
            raise ValueError(f"must be {words}")
        return text

    return AfterValidator(check)


InputId = Annotated[
    str,
    _of_form(ID_PATTERN, "an id, as answers have it"),
    Field(json_schema_extra={"format": "uuid", "pattern": ID_PATTERN}),
]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=8)]


TagKey = Annotated[str, Field(pattern=f"^{TAG_KEY}$")]
TagValue = Annotated[Storable, Field(max_length=MAX_TAG_VALUE)]
_KEY_AND_VALUE = rf"^{TAG_KEY}=[^\u0000]{{0,{MAX_TAG_VALUE}}}$"
_KEY_OR_BOTH = rf"^{TAG_KEY}(=[^\u0000]{{0,{MAX_TAG_VALUE}}})?$"
KeyAndValue = Annotated[
    str,
    _of_form(_KEY_AND_VALUE, "a tag's key=value, such as project=orchard"),
    Field(json_schema_extra={"pattern": _KEY_AND_VALUE}, examples=["project=orchard"]),
]
KeyOrBoth = Annotated[
    str,
    _of_form(_KEY_OR_BOTH, "a tag's key or key=value, such as project or project=orchard"),
    Field(json_schema_extra={"pattern": _KEY_OR_BOTH}, examples=["project", "project=orchard"]),
]


class Upscale(Strict):
    """Enlarge what the first step made, in a second step."""

    scale: Literal[2, 4] = Field(description="both sides times this")
    impl: Literal["auto", "resample", "diffusion", "gan"] = Field(
        default="auto",
        description="`resample` adds no detail (Lanczos), and `auto` never means it",
    )
    strict_scale: bool = Field(
        default=False,
        description="refuse an upscaler that was made for another scale, instead of resampling "
        "its result to the one that was asked for",
    )
    model_id: Name | None = Field(
        default=None,
        description="an upscaler's id, its name, or name@version; default: the one that suits",
    )


class Lora(Strict):
    """A LoRA that is added to the model's weights for this job."""

    model_id: Name = Field(description="its id, its name, or name@version")
    scale: float = Field(
        default=1.0,
        ge=-MAX_LORA_SCALE,
        le=MAX_LORA_SCALE,
        description="how strongly: 0 is not at all, and below 0 the other way",
    )


class Chain(Strict):
    upscale: Upscale | None = None


def _receiver(url: str) -> str:
    parts = check_http(url, "an http:// or https:// address")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must have no user, no password and no fragment; a path and a query may")
    return url


def _distinct(events: list[str]) -> list[str]:
    if len(set(events)) < len(events):
        raise ValueError("names an event twice")
    return events


class Webhook(Strict):
    """What we send to your server while the job goes on: signed, repeated until it answers 2xx."""

    url: Annotated[
        str,
        AfterValidator(_receiver),
        Field(
            max_length=MAX_URL,
            description="gets a POST for each event; no redirect is followed",
            examples=["https://shop.example.org/hooks/pictures"],
            json_schema_extra={"pattern": "^https?://[!-~]+$"},
        ),
    ]
    events: Annotated[
        list[Literal["start", "artifact", "end"]],
        AfterValidator(_distinct),
        Field(
            min_length=1,
            max_length=len(WebhookEvent),
            description="`start`: it runs; `artifact`: a picture is stored; `end`: it has ended",
            json_schema_extra={"uniqueItems": True},
        ),
    ] = ["end"]


class CreateJob(Strict):
    """A job to be. What is not given comes from the model and its preset."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"type": "generate", "prompt": "a red apple"},
                {
                    "type": "generate",
                    "prompt": "a lighthouse at night, oil painting",
                    "negative_prompt": "blurry",
                    "width": 512,
                    "height": 512,
                    "steps": 25,
                    "guidance": 7.5,
                    "seed": 42,
                    "count": 4,
                    "format": "png",
                },
                {
                    "type": "generate",
                    "prompt": "a red apple",
                    "chain": {"upscale": {"scale": 2, "impl": "resample"}},
                },
            ]
        }
    )

    type: Literal["generate"]
    prompt: Annotated[Text, Field(min_length=1, description="what to draw")]
    negative_prompt: Annotated[Text, Field(description="what to avoid")] = ""
    width: Side | None = Field(default=None, description="pixels; default from the model")
    height: Side | None = Field(default=None, description="pixels; default from the model")
    steps: int | None = Field(
        default=None, ge=1, le=MAX_STEPS, description="sampling steps; default from the model"
    )
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=MAX_GUIDANCE,
        description="how closely to follow the prompt; default from the model",
    )
    scheduler: Scheduler | None = Field(default=None, description="default: the model's own")
    image: InputId | None = Field(
        default=None,
        description="the picture to start from: the id of an input, or of an artifact of yours. "
        "Without `width` and `height` the result has its size",
    )
    strength: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="how far the result may leave `image`: so much of the steps is taken, and one "
        f"at least; default: {DEFAULT_STRENGTH}",
    )
    mask: InputId | None = Field(
        default=None,
        description="an input of the size of `image`: white is painted anew, black stays as it is, "
        "and grey is between the two",
    )
    mask_rule: Literal["white", "transparent"] | None = Field(
        default=None,
        description="what of `mask` is painted anew; default: what is white. With `transparent` "
        "its colours do not count, and what is half transparent is between the two",
    )
    images: Annotated[list[InputId], Field(min_length=1, max_length=MAX_REFERENCES)] | None = Field(
        default=None, description="the pictures that an edit model works on, in their order"
    )
    loras: list[Lora] = Field(
        default_factory=list,
        max_length=MAX_LORAS,
        description="changes of the model, made for models of its kind",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=MAX_SEED,
        description="item i uses (seed + i) mod 2^53; without one each item draws its own",
    )
    count: int = Field(
        default=1, ge=1, le=MAX_COUNT, description="pictures, made from one load of the model"
    )
    format: Literal["png", "jpg", "webp"] = Field(default="png", description="of the files")
    jpeg_quality: int | None = Field(
        default=None, ge=1, le=100, description="of `jpg` files only; default: the operator's"
    )
    webp_quality: int | None = Field(
        default=None, ge=1, le=100, description="of `webp` files only; default: lossless"
    )
    embed_metadata: bool = Field(
        default=True, description="write into the file how it was made, seed included"
    )
    model_id: Name | None = Field(
        default=None, description="a model's id, its name, or name@version"
    )
    preset: Name | None = Field(
        default=None, description="limits and memory, by device; default: the model's"
    )
    timeout_s: float | None = Field(
        default=None, gt=0, description="how long each step may run; default: the preset's"
    )
    priority: Literal["high", "normal", "low"] | None = Field(
        default=None,
        description="among the jobs of all users; default: `normal`, or what the key may use",
    )
    tags: dict[TagKey, TagValue] = Field(
        default_factory=dict,
        max_length=MAX_TAGS,
        description="your own names for it, by which the list can be filtered",
        json_schema_extra={"additionalProperties": False},
    )
    chain: Chain | None = Field(default=None, description="what happens to the pictures next")
    webhook: Webhook | None = Field(
        default=None, description="where to report to; needs a secret of your key's name"
    )

    @property
    def capability(self) -> Capability:
        """What the model must be able to do."""
        if self.images is not None:
            return "edit"
        if self.image is None:
            return "generate"
        return "image_to_image" if self.mask is None else "inpaint"

    @property
    def picture_ids(self) -> list[str]:
        """The ids of all pictures that it names, the image before its mask."""
        single = [each for each in (self.image, self.mask) if each is not None]
        return single + (self.images or [])

    @property
    def upscale(self) -> Upscale | None:
        return None if self.chain is None else self.chain.upscale


class ListQuery(BaseModel):
    """Query of `GET /v1/jobs`."""

    model_config = ConfigDict(extra="forbid")

    status: Status | None = Field(default=None, description="only jobs with this status")
    tag: list[KeyAndValue] = Field(
        default_factory=list,
        max_length=MAX_TAGS,
        description="`key=value`: only jobs with this tag; several times: with all of them",
    )
    limit: int = Field(default=50, ge=1, le=MAX_PAGE, description="jobs a page, at most")
    cursor: str | None = Field(
        default=None,
        description="`next_cursor` of the page before",
        json_schema_extra={"pattern": CURSOR_PATTERN},
    )

    @property
    def tags(self) -> list[tuple[str, str]]:
        pairs = (each.partition("=") for each in self.tag)
        return [(key, value) for key, _, value in pairs]


def _day(text: Any) -> date:
    """Only the form with dashes: a number would be a moment, and Python reads weeks as well."""
    if not isinstance(text, str) or re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is None:
        raise ValueError("must be a day like 2026-01-31")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("is no day of the calendar") from None


Day = Annotated[date, BeforeValidator(_day), Field(examples=["2026-01-31"])]


class UsageQuery(BaseModel):
    """Query of `GET /v1/usage`."""

    model_config = ConfigDict(extra="forbid")

    since: Day | None = Field(
        default=None, alias="from", description="the first day; default: 30 days with the last one"
    )
    until: Day | None = Field(
        default=None, alias="to", description="the last day, included; default: today"
    )
    model: Name | None = Field(
        default=None, description="name@version, or a name: all its versions"
    )
    user: Name | None = Field(
        default=None, description="another user than the caller: for a key of `DF_ADMIN_KEYS`"
    )
    tag: KeyOrBoth | None = Field(
        default=None,
        description="a key that `DF_USAGE_TAGS` names: jobs with this tag, a row for each of its "
        "values; `key=value`: those of one value",
    )
    limit: int = Field(default=500, ge=1, le=MAX_USAGE_PAGE, description="rows a page, at most")
    cursor: str | None = Field(
        default=None,
        description="`next_cursor` of the page before",
        json_schema_extra={"pattern": USAGE_CURSOR_PATTERN},
    )


class DeadLettersQuery(BaseModel):
    """Query of `GET /v1/dead-letters`."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=1, le=MAX_PAGE, description="of each kind, at most")


class LogsQuery(BaseModel):
    """Query of `GET /v1/jobs/{id}/logs`."""

    model_config = ConfigDict(extra="forbid")

    tail: int | None = Field(default=None, ge=1, le=MAX_TAIL, description="only the last N lines")
    since_ts: str | None = Field(
        default=None,
        max_length=64,
        description="ISO 8601; without an offset it is UTC",
        examples=["2026-01-31T12:00:00Z"],
        json_schema_extra={"format": "date-time"},
    )
    level: Level | None = Field(default=None, description="this level and above")
