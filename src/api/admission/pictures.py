"""The pictures that a request starts from: find them, check them, pin them on the step.

A request names inputs, or artifacts of its user. An artifact becomes an input first: the store
copies it, so that the picture outlives the job that made it for as long as a step needs it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid4

from api.context import Context
from api.schemas.requests import CreateJob
from shared.db import artifacts, inputs
from shared.db.artifacts import Artifact
from shared.db.engine import Connection
from shared.db.inputs import Input, NewInput
from shared.db.models import Model
from shared.errors import InvalidInput
from shared.limits import MAX_SIDE, MIN_SIDE
from shared.models.parameters import find_problems
from shared.protocol.messages import CONTENT_TYPES, InputRole
from shared.step_store import PinnedInput

# What decoding a picture takes at most, by its format: measured with every mode at 16 megapixels,
# upright and turned. WebP decodes an alpha channel always.
DECODING_BYTES = {"png": 19, "jpg": 13, "webp": 25}
DECODED_BYTES = 4  # Pillow keeps three colours in four bytes
REQUEST_MULTIPLE = 8  # of the sides of every request, whatever its model


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Those that were found, by the id in the request."""

    by_id: Mapping[str, Input]

    def check(self, body: CreateJob) -> None:
        """Raise `InvalidInput` for what does not belong together, and for what is not there."""
        if body.images is not None and body.image is not None:
            raise _invalid("images", "an edit model gets these alone; leave image out, or images")
        for name in ("strength", "mask"):
            if getattr(body, name) is not None and body.image is None:
                raise _invalid(name, "it goes with a picture to start from; image is missing")
        if body.mask_rule is not None and body.mask is None:
            raise _invalid("mask_rule", "it says how to read a mask, and mask is missing")
        for name, id in _named(body):
            if id not in self.by_id:
                raise _invalid(
                    name, "there is no such input or artifact of yours; POST /v1/inputs sends one"
                )
        if body.image is not None and body.mask is not None:
            self._check_mask(self.by_id[body.image], self.by_id[body.mask])

    def _check_mask(self, image: Input, mask: Input) -> None:
        if (mask.width, mask.height) != (image.width, image.height):
            raise _invalid(
                "mask",
                f"it is {mask.width}x{mask.height} and image {image.width}x{image.height} pixels; "
                "both must have one size",
            )

    def sides(self, body: CreateJob, model: Model) -> tuple[int, int] | None:
        """Width and height where the request leaves them to its picture; None: it does not.

        Raises `InvalidInput` where the model cannot draw at that size.
        """
        if body.image is None or (body.width is not None and body.height is not None):
            return None
        if body.width is not None or body.height is not None:
            raise _invalid("width", "give height too, or neither for the size of image")
        image = self.by_id[body.image]
        if not _draws(model, image.width, image.height):
            raise _undrawable(image, model)
        return image.width, image.height

    @property
    def bytes(self) -> int:
        """Memory that a runner needs to decode one after the other, while it keeps the others."""
        pixels = {id: each.width * each.height for id, each in self.by_id.items()}
        decoding = (DECODING_BYTES[each.format] * pixels[id] for id, each in self.by_id.items())
        return max(decoding, default=0) + DECODED_BYTES * sum(pixels.values())


def _named(body: CreateJob) -> list[tuple[str, str]]:
    """Each field that names a picture, with the id."""
    single = [("image", body.image), ("mask", body.mask)]
    return [
        *((name, id) for name, id in single if id is not None),
        *(("images", id) for id in body.images or ()),
    ]


NO_PICTURES = Pictures(by_id={})


def pin(body: CreateJob, pictures: Pictures) -> list[dict[str, Any]] | None:
    """What is stored on the step: which objects it starts from, and what they are to it."""
    mask: InputRole = "alpha_mask" if body.mask_rule == "transparent" else "mask"
    roles: dict[str, InputRole] = {"image": "image", "mask": mask, "images": "reference"}
    pinned = [
        asdict(
            PinnedInput(
                item_index=index,
                role=roles[name],
                id=str(row.id),
                **{each: getattr(row, each) for each in _SAME},
            )
        )
        for index, (name, row) in enumerate((n, pictures.by_id[i]) for n, i in _named(body))
    ]
    return pinned or None


# Of an input and of what is pinned of it.
_SAME = ("format", "width", "height", "orientation", "s3_key", "sha256", "size_bytes")


async def find_pictures(context: Context, body: CreateJob, user: str) -> Pictures:
    """The pictures of `user` that `body` names; from now on they are kept anew.

    Raises `InfraUnavailable`. What is missing is left out.
    """
    ids = {UUID(id): id for _, id in _named(body)}
    if not ids:
        return NO_PICTURES
    rows = await context.database.transaction(inputs.touch, ids, user=user)
    others = [id for id in ids if id not in rows]
    if others:
        made = await context.database.transaction(artifacts.of_user, others, user=user)
        for artifact in made:
            rows[artifact.id] = await _adopt(context, artifact, user)
    return Pictures(by_id={ids[id]: row for id, row in rows.items()})


async def keep_pictures(connection: Connection, pictures: Pictures) -> Pictures:
    """Those that have not been deleted since; nobody can until the transaction ends."""
    if not pictures.by_id:
        return pictures
    kept = await inputs.keep(connection, [row.id for row in pictures.by_id.values()])
    return Pictures(by_id={id: row for id, row in pictures.by_id.items() if row.id in kept})


async def _adopt(context: Context, artifact: Artifact, user: str) -> Input:
    """The input with an artifact's bytes: one that is there, or a copy."""
    same = await context.database.transaction(inputs.touch_same, user=user, sha256=artifact.sha256)
    if same is not None:
        return same
    id = uuid4()
    new = NewInput(
        id=id,
        user=user,
        format=artifact.format,
        width=artifact.width,
        height=artifact.height,
        orientation=1,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        s3_key=inputs.object_key(user, artifact.sha256, id),
    )
    await context.store.compose(
        new.s3_key,
        [artifact.s3_key],
        content_type=CONTENT_TYPES[artifact.format],
        sha256=artifact.sha256,
    )
    stored = await context.database.transaction(inputs.insert, new)
    if stored.id != id:  # another request was faster
        await context.store.delete(new.s3_key)
    return stored


def _draws(model: Model, width: int, height: int) -> bool:
    """Whether requests may say this size, and this model takes it."""
    sides = {"width": width, "height": height}
    if any(side % REQUEST_MULTIPLE or not MIN_SIDE <= side <= MAX_SIDE for side in sides.values()):
        return False
    # What else a schema asks for is checked with the rest of the request.
    problems = find_problems(model.parameters_schema, sides)
    return not any(problem.field in sides for problem in problems)


def _undrawable(image: Input, model: Model) -> InvalidInput:
    refused = f"{model.label} draws no picture of its {image.width}x{image.height} pixels. "
    width, height = _nearest(image, model.parameters_schema.get("properties", {}))
    if not _draws(model, width, height):
        return _invalid("image", f"{refused}Ask for another size")
    return _invalid(
        "image",
        f"{refused}Ask for a size, such as {width}x{height}: the picture is cut to that shape and "
        "resampled",
        width=width,
        height=height,
    )


def _nearest(image: Input, rules: Mapping[str, Any]) -> tuple[int, int]:
    """A size of about the picture's shape, and as many pixels as the model usually draws.

    A schema that we have not written may say nothing of a side, or name what no side can be.
    """
    width, height = rules.get("width", {}), rules.get("height", {})
    usual = _whole(width, "default", image.width) * _whole(height, "default", image.height)
    factor = math.sqrt(usual / (image.width * image.height))
    return _side(image.width * factor, width), _side(image.height * factor, height)


def _side(wanted: float, rule: Mapping[str, Any]) -> int:
    multiple = math.lcm(REQUEST_MULTIPLE, _whole(rule, "multipleOf", REQUEST_MULTIPLE))
    least = -(-_whole(rule, "minimum", MIN_SIDE) // multiple)
    most = _whole(rule, "maximum", MAX_SIDE) // multiple
    return multiple * min(max(round(wanted / multiple), least), most)


def _whole(rule: Mapping[str, Any], keyword: str, otherwise: int) -> int:
    """A number of pixels in a schema; `otherwise` where there is none that a side could have."""
    value = rule.get(keyword)
    return value if isinstance(value, int) and 1 <= value <= MAX_SIDE else otherwise


def _invalid(field: str, problem: str, **details: Any) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}", field=field, **details)
