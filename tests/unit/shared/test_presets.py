"""Preset files: what ships is sound, what an operator writes is checked, what is pinned stays."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from shared.errors import InvalidInput
from shared.limits import MAX_PICTURE_PIXELS
from shared.models.descriptor import PartSize
from shared.models.families import FAMILIES, Kind
from shared.presets import (
    VAE_BYTES,
    KindNeed,
    Preset,
    PresetError,
    host_bytes,
    parse_preset,
    preset,
    presets,
)
from shared.protocol.frames import MAX_BODY_BYTES
from shared.protocol.messages import Dtype, Offload, PresetSpec
from shared.settings import Settings, describe

SOUND = """
name = "mine"
version = 3
device = "cuda"
memory_bytes = 24_000_000_000
dtype = "float16"
threads = 4
timeout_s = 60
max_pixels = 1_048_576
max_steps = 50

[kinds.sdxl]
dtype = "bfloat16"
offload = "model"
base_bytes = 1000
bytes_per_pixel = 2
"""


def with_file(folder: Path, text: str, name: str = "mine.toml") -> Path:
    (folder / name).write_text(text)
    presets.cache_clear()
    return folder


@pytest.mark.parametrize("size", [8, 12, 16, 24, 48, 80])
def test_every_class_of_card_runs_every_kind_at_its_native_size(size: int) -> None:
    found = preset(f"gpu-{size}gb")
    assert found.memory_bytes == size * 10**9
    for kind in get_args(Kind):
        side = FAMILIES[kind].native_side * (FAMILIES[kind].scale or 1)
        assert side * side <= found.max_pixels_for(kind)
        assert found.budget_for(kind, side * side).vram_bytes <= found.memory_bytes, kind


@pytest.mark.parametrize("field", ["max_pixels", "max_output_pixels"])
def test_a_preset_allows_no_picture_that_a_frame_could_not_hold(field: str, tmp_path: Path) -> None:
    assert 3 * MAX_PICTURE_PIXELS < MAX_BODY_BYTES
    lines = [line for line in SOUND.splitlines() if not line.startswith(f"{field} ")]
    text = f"{field} = {MAX_PICTURE_PIXELS + 1}\n" + "\n".join(lines)
    with pytest.raises(PresetError, match=rf"{field}.*{MAX_PICTURE_PIXELS}"):
        parse_preset("mine.toml", text)
    text = SOUND.replace("[kinds.sdxl]", f"[kinds.sdxl]\nmax_pixels = {MAX_PICTURE_PIXELS + 1}")
    with pytest.raises(PresetError, match=rf"max_pixels.*{MAX_PICTURE_PIXELS}"):
        parse_preset("mine.toml", text)


def test_every_limit_of_a_card_can_be_reached_on_it() -> None:
    for card in presets().values():
        for kind in get_args(Kind) if card.device == "cuda" else ():
            most = card.max_pixels_for(kind)
            assert card.budget_for(kind, most).vram_bytes <= card.memory_bytes, (
                f"{card.name} {kind}"
            )


def test_a_larger_card_never_has_a_lower_limit() -> None:
    cards = [one for one in presets().values() if one.device == "cuda"]
    assert [one.name for one in cards] == [
        *("gpu-8gb", "gpu-12gb", "gpu-16gb", "gpu-16gb-fp8"),
        *("gpu-24gb", "gpu-24gb-fp8", "gpu-48gb", "gpu-80gb"),
    ]
    for kind in (None, *get_args(Kind)):
        limits = [one.max_pixels_for(kind) for one in cards]
        assert sorted(limits) == limits, kind


def test_memory_is_that_of_sampling_or_of_decoding_whichever_is_more() -> None:
    """Base 1 GB. Sampling 10 bytes a pixel; decoding 100, and 80 for the picture itself."""
    whole = own(kind="sd", base=10**9, sampling=10, decoding=100)
    assert whole.budget_for("sd", 10**6).vram_bytes == 10**9 + 180 * 10**6
    assert (
        own(kind="sd", base=10**9, sampling=10, decoding=0).budget_for("sd", 10**6).vram_bytes
        == 1010 * 10**6
    )
    steep = own(kind="sd", base=10**9, sampling=500, decoding=100)
    assert steep.budget_for("sd", 10**6).vram_bytes == 10**9 + 500 * 10**6


def test_of_a_tiled_decode_a_tile_counts_and_not_the_picture() -> None:
    tiled = own(kind="sd", base=10**9, sampling=10, decoding=1000, vae_tiling=True)
    tile = 512 * 512
    assert tiled.budget_for("sd", tile).vram_bytes == 10**9 + 1080 * tile
    assert tiled.budget_for("sd", 9 * tile).vram_bytes == 10**9 + 1000 * tile + 80 * 9 * tile
    # What tiles an unknown pipeline has, if any, nobody knows.
    unknown = own(kind="auto", base=10**9, sampling=10, decoding=1000, vae_tiling=True)
    assert unknown.budget_for("auto", 9 * tile).vram_bytes == 10**9 + 1080 * 9 * tile


def test_a_decode_beside_offloaded_parts_does_not_count_their_weights() -> None:
    turns = own(kind="sd", base=10**10, sampling=10, decoding=1000, offload="model")
    assert turns.budget_for("sd", 10**6).vram_bytes == 10**10 + 10 * 10**6
    assert (
        turns.budget_for("sd", 10**7).vram_bytes == turns.overhead_bytes + VAE_BYTES + 1080 * 10**7
    )


@pytest.mark.parametrize(
    ("offload", "dtype", "resident"),
    [
        ("none", "float16", 2 * 7 * 10**9),
        ("none", "float32", 4 * 7 * 10**9),
        ("model", "bfloat16", 2 * 5 * 10**9),
        ("group", "bfloat16", VAE_BYTES + 2 * (3 * 10**8 + 2 * 10**9)),
        ("sequential", "float16", 2 * 10**9),
    ],
)
def test_a_checkpoint_larger_than_usual_counts_by_what_is_there_at_once(
    offload: Offload, dtype: Dtype, resident: int
) -> None:
    parts = {
        "transformer": PartSize(numbers=5 * 10**9, largest=10**8, block=10**9, outside=3 * 10**8),
        "text_encoder": PartSize(numbers=2 * 10**9, largest=10**9),
    }
    card = own(kind="sd3", base=2 * 10**9, sampling=10, decoding=0, offload=offload, dtype=dtype)
    assert card.budget_for("sd3", 10**6, parts).vram_bytes == card.overhead_bytes + resident + 10**7
    small = {"unet": PartSize(numbers=1, largest=1)}
    assert (
        card.budget_for("sd3", 10**6, small).vram_bytes
        == card.budget_for("sd3", 10**6).vram_bytes
        == 2 * 10**9 + 10**7
    )


@pytest.mark.parametrize(
    ("offload", "resident"),
    [
        ("none", 2 * 10**9 + 4 * 10**9 + 2 * 10**8 + 2 * 2 * 10**9),
        ("model", 2 * 10**9 + 4 * 10**9 + 2 * 10**8),
        ("group", VAE_BYTES + 2 * (3 * 10**8 + 2 * 10**9)),
    ],
)
def test_of_a_transformer_in_8_bits_the_precise_layers_and_the_one_that_computes_count_in_full(
    offload: Offload, resident: int
) -> None:
    parts = {
        "transformer": PartSize(
            numbers=5 * 10**9, largest=10**8, block=10**9, outside=3 * 10**8, precise=10**9
        ),
        "text_encoder": PartSize(numbers=2 * 10**9, largest=10**9),
    }
    card = own(
        kind="sd3", base=10**9, sampling=10, decoding=0, offload=offload, dtype="bfloat16",
        storage_dtype="float8_e4m3fn",
    )  # fmt: skip
    assert card.budget_for("sd3", 10**6, parts).vram_bytes == card.overhead_bytes + resident + 10**7


PACKED = PartSize(
    numbers=12 * 10**9, largest=10**8, block=10**9, outside=10**8, packed_bytes=7 * 10**9
)


@pytest.mark.parametrize(
    ("offload", "resident", "beside_vae"),
    [
        ("none", 7 * 10**9 + 8 * 10**8 + 2 * 5 * 10**9, 7 * 10**9 + 8 * 10**8 + 2 * 5 * 10**9),
        ("model", 2 * 5 * 10**9, VAE_BYTES),
        ("group", VAE_BYTES + 7 * 10**9 + 8 * 10**8, VAE_BYTES + 7 * 10**9),
    ],
)
@pytest.mark.parametrize("storage_dtype", [None, "float8_e4m3fn"])
def test_a_packed_part_counts_as_its_file_has_it_and_a_layer_unpacked(
    offload: Offload, resident: int, beside_vae: int, storage_dtype: str | None
) -> None:
    parts = {
        "transformer": PACKED,
        "text_encoder": PartSize(numbers=5 * 10**9, largest=10**8),
    }
    same: dict[str, Any] = {
        "kind": "flux", "base": 10**9, "sampling": 10, "offload": offload, "dtype": "bfloat16",
        "storage_dtype": storage_dtype,
    }  # fmt: skip
    sampling = own(decoding=0, **same)
    assert (
        sampling.budget_for("flux", 10**6, parts).vram_bytes
        == sampling.overhead_bytes + resident + 10**7
    )
    decoding = own(decoding=10**5, **same)
    assert (
        decoding.budget_for("flux", 10**6, parts).vram_bytes
        == decoding.overhead_bytes + beside_vae + (10**5 + 80) * 10**6
    )
    assert host_bytes(parts, "bfloat16") == 7 * 10**9 + 2 * 5 * 10**9


def own(*, kind: Kind, base: int, sampling: int, decoding: int, **fields: Any) -> Preset:
    need = KindNeed(
        base_bytes=base, bytes_per_pixel=sampling, decode_bytes_per_pixel=decoding, **fields
    )
    return preset("gpu-80gb").model_copy(update={"kinds": {kind: need}})


def test_a_kind_may_have_its_own_dtype_and_offload_mode(tmp_path: Path) -> None:
    mine = presets(with_file(tmp_path, SOUND))["mine"]
    spec = mine.budget_for("sdxl").spec
    assert (spec.dtype, spec.offload) == ("bfloat16", "model")
    assert preset("gpu-16gb").budget_for("sd").spec.offload == "none"
    assert preset("gpu-16gb").budget_for("flux").spec.dtype == "bfloat16"


def test_what_is_pinned_is_what_the_runner_gets_and_the_limits() -> None:
    pinned = preset("gpu-8gb").budget_for("sdxl").pinned
    spec = PresetSpec.model_validate({name: pinned[name] for name in PresetSpec.model_fields})
    assert spec == preset("gpu-8gb").budget_for("sdxl").spec
    assert pinned.keys() - PresetSpec.model_fields == {"timeout_s", "max_pixels", "max_steps"}


def test_a_budget_is_the_whole_answer() -> None:
    card = preset("gpu-8gb")
    budget = card.budget_for("sdxl", 10**6)
    assert (budget.max_pixels, budget.max_steps) == (card.max_pixels_for("sdxl"), card.max_steps)
    assert budget.timeout_s == budget.pinned["timeout_s"] == card.timeout_s
    assert "vram_factor" not in budget.pinned


def test_the_operator_s_factor_corrects_the_memory_and_is_pinned() -> None:
    corrected = preset("gpu-8gb").budget_for("sdxl", 10**6, vram_factor=1.25)
    assert corrected.vram_bytes == math.ceil(
        preset("gpu-8gb").budget_for("sdxl", 10**6).vram_bytes * 1.25
    )
    assert corrected.pinned["vram_factor"] == 1.25


def test_resampling_needs_memory_of_the_cpu_alone() -> None:
    assert preset("gpu-8gb").budget_for(None, 10**6).vram_bytes == 0
    assert preset("cpu").budget_for(None, 10**6).vram_bytes == 536_870_912 + 20 * 10**6


def test_a_kind_that_the_preset_does_not_know_is_refused_with_those_it_does(tmp_path: Path) -> None:
    mine = presets(with_file(tmp_path, SOUND))["mine"]
    with pytest.raises(InvalidInput, match="it knows sdxl"):
        mine.budget_for("flux", 1)


def test_own_presets_stand_beside_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("why we have these")
    known = presets(with_file(tmp_path, SOUND))
    assert known.keys() - presets().keys() == {"mine"}
    with pytest.raises(InvalidInput) as caught:
        preset("nope", tmp_path)
    assert caught.value.details["known"] == list(known)


WRONG: list[tuple[str, str, str]] = [
    ('dtype = "float16"', 'dtyp = "float16"', "mine.toml: dtyp: no such field; there are name"),
    ("threads = 4", "threads = 4\nthread = 4", "mine.toml: thread: no such field; there are name"),
    ("base_bytes", "base_byte", "kinds.sdxl.base_byte: no such field; there are base_bytes"),
    ("[kinds.sdxl]", "[kinds.sdxx]", "mine.toml: kinds.sdxx: Input should be 'sd', 'sdxl'"),
    ('"float16"', '"fp16"', "mine.toml: dtype: Input should be 'float32', 'float16' or 'bfloat16'"),
    ("max_steps = 50", "max_steps = 0", "mine.toml: max_steps: Input should be greater than 0"),
    ("version = 3", "version = ", "mine.toml: not TOML:"),
    ('device = "cuda"', 'device = "cpu"', "a CPU has nowhere to offload to; accepted: none"),
    (
        'offload = "model"',
        'offload = "sequential"\nstorage_dtype = "float8_e4m3fn"',
        "kinds.sdxl: storage_dtype goes with the offload none, model and group",
    ),
    ('"model"', '"model"\nstorage_dtype = "fp8"', "storage_dtype: Input should be 'float8_e4m3fn'"),
    ('"mine"', '"gpu-24gb"', "mine.toml: name: 'gpu-24gb' ships with Dream Forge"),
]


def test_8_bits_are_refused_on_a_cpu() -> None:
    text = SOUND.replace('"cuda"', '"cpu"')
    text = text.replace('offload = "model"', 'storage_dtype = "float8_e4m3fn"')
    with pytest.raises(PresetError, match="storage_dtype: it saves no memory of a CPU"):
        parse_preset("mine.toml", text)


@pytest.mark.parametrize(("there", "instead", "said"), WRONG)
def test_a_typo_is_refused_with_file_and_field(
    tmp_path: Path, there: str, instead: str, said: str
) -> None:
    with pytest.raises(PresetError) as caught:
        presets(with_file(tmp_path, SOUND.replace(there, instead)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).removesuffix("\n") or "TOML" in said


@pytest.mark.parametrize("value", ["9" * 30, "9" * 5000, "inf", "nan", "-1", "[" * 5000])
@pytest.mark.parametrize(
    "field", ["version", "memory_bytes", "threads", "timeout_s", "max_steps", "base_bytes"]
)
def test_a_number_that_no_row_could_hold_is_refused(field: str, value: str) -> None:
    text = re.sub(rf"^{field} = .*$", f"{field} = {value}", SOUND, flags=re.MULTILINE)
    assert text != SOUND
    with pytest.raises(PresetError, match=r"^mine\.toml: "):
        parse_preset("mine.toml", text)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link in a circle", "device", "large"])
def test_a_preset_that_is_no_file_is_refused_and_never_read(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "mine.toml"
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "device":
            place.symlink_to("/dev/zero")
        case "large":
            place.touch()
            os.truncate(place, 1 << 40)
        case _:
            place.symlink_to(place)
    with pytest.raises(PresetError, match=r"^mine\.toml: "):
        presets(tmp_path)


def test_a_field_that_only_one_kind_has_wrong_names_the_fields_of_a_kind(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="there are base_bytes, bytes_per_pixel, decode_bytes"):
        parse_preset("mine.toml", SOUND + "\nbase_byte = 1\n")


@pytest.mark.parametrize(
    ("name", "said"), [("mine.tml", "not a preset"), ("two.toml", "is in another file")]
)
def test_a_file_that_would_be_ignored_or_doubled_is_refused(
    tmp_path: Path, name: str, said: str
) -> None:
    with_file(tmp_path, SOUND)
    with pytest.raises(PresetError, match=said):
        presets(with_file(tmp_path, SOUND, name))


def settings(**given: Any) -> Settings:
    return Settings(
        _env_file=None,
        database_url="postgresql://x",
        redis_url="redis://x",
        s3_endpoint="http://x",
        s3_access_key="x",
        s3_secret_key="x",
        **given,
    )


def test_a_start_with_a_wrong_preset_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = with_file(tmp_path, SOUND.replace("bytes_per_pixel", "bytes_per_pixels"))
    with pytest.raises(ValidationError) as caught:
        settings(presets_dir=folder)
    (line,) = describe(caught.value)
    assert line.startswith("DF_PRESETS_DIR: mine.toml: kinds.sdxl.bytes_per_pixels: no such field")
    with pytest.raises(ValidationError, match="No such file or directory"):
        settings(presets_dir=tmp_path / "absent")
    assert settings(presets_dir="").presets_dir is None
