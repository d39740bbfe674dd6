"""A picture that is broken in any way is refused, or decoded: by the head at an upload, or later in
the runner, under the name of the input. Nothing else happens, and no small file takes much memory.
"""

from __future__ import annotations

import resource
from collections import Counter

import pytest
from tests.support.broken_pictures import BOMB_BYTES, broken_pictures, sound

from api.uploads.picture_head import HeadReader, PictureHead
from runner.images.decode import InputRefused, decode
from shared.errors import InvalidInput
from shared.protocol.messages import SourceSpec


def head_of(data: bytes) -> PictureHead:
    reader = HeadReader()
    reader.feed(data)
    return reader.finish()


def outcome(data: bytes) -> str:
    try:
        head = head_of(data)
    except InvalidInput:
        return "refused at the upload"
    source = SourceSpec(
        item_index=0,
        role="image",
        id="0" * 32,
        format=head.format,
        width=head.width,
        height=head.height,
        orientation=head.orientation,
        sha256="0" * 64,
    )
    try:
        image = decode(data, source, lambda message, body=b"": None)
    except InputRefused as error:
        assert source.id in str(error)
        return "refused by the runner"
    assert (image.mode, image.size) == ("RGB", (head.width, head.height))
    return "decoded"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.filterwarnings("default::UserWarning")  # Pillow's, which refuse nothing in a runner
def test_each_of_a_collection_of_broken_pictures_is_refused_or_decoded() -> None:
    assert [outcome(sound(each)) for each in ("png", "jpeg", "webp")] == ["decoded"] * 3
    before, outcomes = peak_bytes(), Counter[str]()
    for each in broken_pictures():
        try:
            outcomes[outcome(each.data)] += 1
        except Exception as error:
            raise AssertionError(f"{each.name}: {error!r}") from error
    assert len(outcomes) == 3, outcomes
    # The largest that a head may promise is 8000x8000; nothing that a bomb holds is unpacked.
    assert peak_bytes() - before < 8000 * 8000 * 8 + BOMB_BYTES
