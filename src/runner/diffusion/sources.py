"""The pictures that a sample starts from, at the size of the result.

A picture of another shape is cut to the shape of the result, in its middle, and then resampled, and
its mask with it. Where both have the size of the result, no pixel is touched.
"""

from dataclasses import dataclass
from typing import Any

import PIL.Image
from PIL.Image import Image, Resampling
from PIL.ImageOps import fit

from shared.models.picture_tasks import PictureTask

Arguments = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """`image` is RGB and `mask` L, 255 where it is painted anew; `references` are of any size."""

    image: Image | None = None
    mask: Image | None = None
    references: tuple[Image, ...] = ()

    @property
    def task(self) -> PictureTask | None:
        """What a pipeline must be able to do with them; None: it draws from the text alone."""
        if self.references:
            return "edit"
        if self.image is None:
            return None
        return "image_to_image" if self.mask is None else "inpaint"

    def fitted(self, width: int, height: int) -> "Sources":
        """The same for a result of this size."""
        size = (width, height)
        return Sources(
            image=None if self.image is None else _fit(self.image, size, Resampling.LANCZOS),
            # Lanczos would paint a little where the mask is black, beside its edges.
            mask=None if self.mask is None else _fit(self.mask, size, Resampling.BILINEAR),
            references=self.references,
        )

    def arguments(self) -> Arguments:
        """What the pipeline is called with for them."""
        if self.references:
            several = list(self.references)
            return {"image": several if len(several) > 1 else several[0]}
        if self.image is None:
            return {}
        if self.mask is None:
            return {"image": self.image}
        # A pipeline knows only painted and not painted. What is painted a little must be there.
        painted = self.mask.point(lambda level: 255 if level else 0)
        return {"image": self.image, "mask_image": painted}

    def composite(self, result: Image) -> Image:
        """`result` where the mask says so; every other pixel as it was."""
        if self.image is None or self.mask is None:
            return result
        return PIL.Image.composite(result.convert("RGB"), self.image, self.mask)


NO_SOURCES = Sources()


def _fit(image: Image, size: tuple[int, int], resampling: Resampling) -> Image:
    return image if image.size == size else fit(image, size, resampling)


def strength_of_a_step(strength: float, steps: int) -> float:
    """`strength`, or the least with which a pipeline takes one of `steps`.

    Pipelines take `int(steps * strength)` steps, and refuse or return the picture itself for none.
    """
    least = 1 / steps
    while int(steps * least) < 1:  # 49 * (1 / 49) is below 1
        least += 1e-9
    return max(strength, least)
