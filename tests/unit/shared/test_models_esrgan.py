"""An upscaler is known by its tensors, and one that does not work on colours is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.headers import Sizes, of_shapes

from shared.errors import ModelUnavailable
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source
from shared.models.esrgan import esrgan_scale

Make = Callable[..., Sizes]


def first_release(into: int, out: int, blocks: int = 2) -> Sizes:
    last = 3 * blocks + 4
    return {
        "model.0.weight": (8, into, 3, 3),
        "model.1.sub.0.RDB1.conv1.0.weight": (8, 8, 3, 3),
        f"model.{last}.weight": (out, 8, 3, 3),
    }


def later_release(into: int, out: int, blocks: int = 2) -> Sizes:
    return {
        "conv_first.weight": (8, into, 3, 3),
        "RRDB_trunk.0.RDB1.conv1.weight": (8, 8, 3, 3),
        **{f"upconv{number + 1}.weight": (8, 8, 3, 3) for number in range(blocks)},
        "conv_last.weight": (out, 8, 3, 3),
    }


@pytest.mark.parametrize("make", [first_release, later_release])
@pytest.mark.parametrize(
    ("into", "blocks", "scale"), [(3, 1, 2), (3, 2, 4), (3, 3, 8), (12, 2, 2), (48, 3, 2)]
)
def test_a_network_of_colours_has_its_scale(make: Make, into: int, blocks: int, scale: int) -> None:
    assert esrgan_scale(make(into, 3, blocks)) == scale


@pytest.mark.parametrize("make", [first_release, later_release])
@pytest.mark.parametrize(
    ("into", "out"),
    [(1, 1), (1, 3), (3, 1), (4, 4), (4, 3), (3, 4), (2, 2), (6, 3), (12, 12), (27, 3), (9, 3)],
)
def test_a_network_of_other_channels_is_refused_when_it_is_installed(
    make: Make, into: int, out: int, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(of_shapes(make(into, out)))
    with pytest.raises(ModelUnavailable, match=f"an ESRGAN of {into} channels to {out};"):
        describe_folder(
            tmp_path, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
        )
