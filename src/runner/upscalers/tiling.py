"""Enlarging a picture piece by piece, so that memory depends on the tile and not on the picture.

Neighbouring tiles overlap. A network sees nothing beyond a tile's edge and draws its last pixels
wrongly, so those are not used at all; between them the two tiles fade into each other:

    left tile    1 1 1 1 1 1 \\ . . . 0 0
    right tile           0 0 . . . / 1 1 1 1 1 1
                        EDGE  fade  EDGE

At the edges of the picture a tile counts in full. Weights of all tiles sum to one everywhere.
"""

from collections.abc import Callable

import torch

Enlarge = Callable[[torch.Tensor], torch.Tensor]
OnTile = Callable[[int, int], None]

# Input pixels. An ESRGAN of the usual size takes about 1 GiB for a tile in half precision.
TILE = 192
# What a deep 3x3 network draws differently near an edge fades within some ten pixels.
EDGE = 8
FADE = 16
OVERLAP = 2 * EDGE + FADE


def enlarge_in_tiles(
    picture: torch.Tensor, scale: int, enlarge: Enlarge, on_tile: OnTile, *, tile: int = TILE
) -> torch.Tensor:
    """`picture` (channels, height, width) enlarged `scale` times, float32 on the host.

    `enlarge` gets tensors of the same layout, at most `tile` on each side. `on_tile(done, total)`
    runs after each and may raise to stop.
    """
    _, height, width = picture.shape
    rows, columns = tile_starts(height, tile), tile_starts(width, tile)
    across, down = (
        blend_weights(columns, tile, width, scale),
        blend_weights(rows, tile, height, scale),
    )
    result = torch.zeros(picture.shape[0], height * scale, width * scale)
    done, total = 0, len(rows) * len(columns)
    for y, weight_y in zip(rows, down, strict=True):
        for x, weight_x in zip(columns, across, strict=True):
            piece = enlarge(picture[:, y : y + tile, x : x + tile]).float().cpu()
            weight = weight_y[:, None] * weight_x[None, :]
            top, left = y * scale, x * scale
            bottom, right = top + piece.shape[1], left + piece.shape[2]
            result[:, top:bottom, left:right] += piece * weight
            done += 1
            on_tile(done, total)
    return result


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin: each overlaps the one before by `OVERLAP`; the last ends at the end."""
    if length <= tile:
        return [0]
    stride = tile - OVERLAP
    return [*range(0, length - tile, stride), length - tile]


def blend_weights(begins: list[int], tile: int, length: int, scale: int) -> list[torch.Tensor]:
    """The weights of each tile along one side; they sum to one at every pixel of the result.

    The last tile may overlap more than the others, so what the ramps leave is divided out.
    """
    spans = [(begin, min(begin + tile, length)) for begin in begins]
    weights = [_weights(begin, end, length, scale) for begin, end in spans]
    total = torch.zeros(length * scale)
    for (begin, end), weight in zip(spans, weights, strict=True):
        total[begin * scale : end * scale] += weight
    return [
        weight / total[begin * scale : end * scale]
        for (begin, end), weight in zip(spans, weights, strict=True)
    ]


def _weights(begin: int, end: int, length: int, scale: int) -> torch.Tensor:
    """How much a tile counts along one side, for each pixel of its result."""
    weight = torch.ones((end - begin) * scale)
    ramp = torch.linspace(0, 1, FADE * scale + 2)[1:-1]
    edge = torch.zeros(EDGE * scale)
    if begin > 0:
        weight[: OVERLAP * scale] = torch.cat([edge, ramp, torch.ones(EDGE * scale)])
    if end < length:
        weight[-OVERLAP * scale :] = torch.cat([torch.ones(EDGE * scale), ramp.flip(0), edge])
    return weight
