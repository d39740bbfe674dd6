"""What a request to edit names its pictures by, and the fields of a job that say the same.

A picture is a file of the form, or the id of an input or artifact. In their dialect a mask is
transparent where the picture is painted anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.dialect.form import Form
from shared.errors import InvalidInput

_NAMES = ("image", "images", "mask")


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """The pictures of a request, by id, and its other fields."""

    images: Sequence[str]
    mask: str | None
    others: dict[str, Any]

    def fields(self, *, edits: bool) -> dict[str, Any]:
        """The fields of a request in which pictures have ids. `edits`: for an edit model."""
        fields = dict(self.others)
        if edits or len(self.images) > 1:
            fields["images"] = list(self.images)
        else:
            fields["image"] = self.images[0]
        if self.mask is not None:
            fields["mask"] = self.mask
            fields.setdefault("mask_rule", "transparent")
        return fields


def named(fields: dict[str, Any], form: Form | None = None) -> Named:
    """Find the pictures in a request's fields and in its form. Raises `InvalidInput`."""
    ids = {name: _ids(name, fields.get(name)) for name in _NAMES}
    if form is not None:
        for name, pictures in form.pictures.items():
            ids[name] = ids[name] + [str(each.id) for each in pictures]
    images = ids["image"] + ids["images"]
    if not images:
        raise InvalidInput(
            "image: is missing; send it as a file of a form, or the id of an input",
            field="image",
        )
    if len(ids["mask"]) > 1:
        raise InvalidInput("mask: there is more than one", field="mask")
    return Named(
        images=images,
        mask=next(iter(ids["mask"]), None),
        others={name: value for name, value in fields.items() if name not in _NAMES},
    )


def _ids(name: str, value: Any) -> list[str]:
    """The ids in `"…"`, `{"file_id": "…"}`, or a list of these."""
    match value:
        case None:
            return []
        case str():
            return [value]
        case {"file_id": str(id), **more} if not more:
            return [id]
        case {"image_url": _}:
            raise InvalidInput(
                f"{name}: addresses are not fetched; send the picture as a file of a form, or to "
                "POST /v1/inputs and its id here",
                field=name,
            )
        case list() if not any(isinstance(each, list) for each in value):
            return [id for each in value for id in _ids(name, each)]
        case _:
            raise InvalidInput(f"{name}: must be a file, or the id of an input", field=name)
