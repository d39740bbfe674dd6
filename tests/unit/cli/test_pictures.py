"""`dreamforge inspect`: pictures of ours, of other tools, and files made to do harm."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from tests.unit.runner.test_images_metadata import encoded, facts

from cli.errors import USAGE, Failure
from cli.main import run
from cli.pictures import reader
from cli.pictures.reader import parse_metadata, read_picture
from cli.pictures.rerun import build_request, differences, find_model, find_upscaler
from cli.pictures.texts import decode_comment, tool_of
from runner.images.metadata import full_metadata, parameters_text

HASH = "0123456789abcdef" * 4
OURS: dict[str, Any] = {
    "schema_version": 1,
    "type": "generate",
    "prompt": "a \u732b",
    "negative_prompt": "",
    "seed": 42,
    "scheduler": None,
    "scheduler_class": "DDIMScheduler",
    "steps": 20,
    "guidance": 7.5,
    "width": 16,
    "height": 8,
    "model": {"id": "x", "name": "m", "version": "1", "kind": "sd", "checkpoint_sha256": HASH},
    "preset": {"name": "cpu", "version": 2, "device": "cpu"},
    "job_id": "job",
    "step": "generate",
    "item_index": 3,
    "software": {"torch": "2"},
}

Save = Callable[..., Path]


@pytest.fixture
def png(tmp_path: Path) -> Save:
    def save(dreamforge: Any = OURS, parameters: str | None = "a cat\nSteps: 20") -> Path:
        texts = PngImagePlugin.PngInfo()
        if parameters is not None:
            texts.add_text("parameters", parameters)
        if dreamforge is not None:
            raw = dreamforge if isinstance(dreamforge, str) else json.dumps(dreamforge)
            texts.add_text("dreamforge", raw)
        path = tmp_path / "picture.png"
        Image.new("RGB", (16, 8)).save(path, pnginfo=texts)
        return path

    return save


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(path: Path, kind: bytes, data: bytes) -> Path:
    """The same picture with one chunk more behind its header."""
    raw = path.read_bytes()
    path.write_bytes(raw[:33] + chunk(kind, data) + raw[33:])
    return path


def inspect_output(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> str:
    assert run(["inspect", str(path), *options]) == 0
    return capsys.readouterr().out


def test_a_picture_of_ours_is_shown_as_a_table_and_as_json(
    png: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = inspect_output(capsys, png())
    own = "the model's own (DDIMScheduler)"
    for line in ("a \u732b", "16x8", own, "m@1 (sd)", HASH, "generate, item 3"):
        assert line in shown
    assert "12.3456789" in inspect_output(capsys, png(OURS | {"guidance": 12.3456789}))
    picture = json.loads(inspect_output(capsys, png(), "--output", "json"))
    assert (picture["dreamforge"], picture["parameters"]) == (OURS, "a cat\nSteps: 20")


def test_another_tools_picture_shows_its_text_and_cannot_be_repeated(
    png: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    path = png(dreamforge=None)
    assert inspect_output(capsys, path) == "a cat\nSteps: 20\n"
    assert run(["inspect", str(path), "--rerun"]) == USAGE
    assert "not made by Dream Forge" in capsys.readouterr().err


def wrong(**changes: Any) -> dict[str, Any]:
    return OURS | changes


HOSTILE: list[tuple[Any, str]] = [
    ("{", "its dreamforge text is not JSON"),
    ("[" * 100_000, "its dreamforge text is not JSON"),
    ("[1]", "not JSON, or not a JSON object"),
    ('{"a":' + "[" * 900 + "]" * 900 + "}", "not JSON, or not a JSON object"),
    ('{"a": "\\ud800", "b": NaN, "c": 1e999, "\\u009b": 1}', "schema_version"),
    (wrong(schema_version=2), "schema_version"),
    (wrong(seed=-1), "seed"),
    (wrong(seed="7"), "seed"),
    (wrong(prompt="x" * 5000), "prompt"),
    (wrong(model=None), "model"),
    (wrong(model=OURS["model"] | {"checkpoint_sha256": "../.."}), "model.checkpoint_sha256"),
    ({name: value for name, value in OURS.items() if name != "steps"}, "steps"),
]


@pytest.mark.parametrize(("dreamforge", "where"), HOSTILE)
def test_a_text_that_is_not_as_we_write_it_is_named_and_not_used(
    png: Save, capsys: pytest.CaptureFixture[str], dreamforge: Any, where: str
) -> None:
    assert run(["inspect", str(png(dreamforge)), "--rerun"]) == USAGE
    error = capsys.readouterr().err
    assert where in error
    assert "Traceback" not in error
    for options in ([], ["--output", "json"]):
        assert run(["inspect", str(png(dreamforge)), *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert all(line.isprintable() for line in lines)


def test_a_file_that_is_no_whole_picture_is_refused(
    png: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = png().read_bytes()
    for name, raw in {
        "empty.png": b"",
        "half.png": whole[: len(whole) - 34],
        "head.png": whole[:20],
        "page.png": b"<html>" * 100,
        "picture.bmp": b"BM" + bytes(100),
        "half.gif": b"GIF89a" + bytes(5),
        "half.webp": b"RIFF\x24\0\0\0WEBPVP8 ",
        "half.jpg": b"\xff\xd8\xff\xe0" + bytes(10),
    }.items():
        path = tmp_path / name
        path.write_bytes(raw)
        assert run(["inspect", str(path)]) == USAGE, name
        assert "not a whole PNG, JPEG, WebP, AVIF or GIF file" in capsys.readouterr().err


def test_texts_and_files_beyond_any_of_ours_are_refused(
    png: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zlib.compress(b"a" * (80 << 20), 9)  # 80 KB that unfold to 80 MB
    unfolds = with_chunk(png(None, None), b"zTXt", b"parameters\0\0" + bomb)
    with pytest.raises(Failure, match="not a whole PNG, JPEG"):
        read_picture(unfolds)
    long = with_chunk(png(None, None), b"tEXt", b"parameters\0" + b"a" * (2 << 20))
    with pytest.raises(Failure, match="a text of 2097152 characters"):
        read_picture(long)
    wide = png(None, None)
    header = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0)
    wide.write_bytes(wide.read_bytes()[:8] + chunk(b"IHDR", header) + wide.read_bytes()[33:])
    with pytest.raises(Failure, match="decompression bomb"):
        read_picture(wide)
    header = struct.pack(">IIBBBBB", 8192, 8193, 8, 2, 0, 0, 0)
    wide.write_bytes(wide.read_bytes()[:8] + chunk(b"IHDR", header) + wide.read_bytes()[33:])
    with pytest.raises(Failure, match="8192x8193 pixels, which are more than"):
        read_picture(wide)
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 10)
    with pytest.raises(Failure, match="larger than any picture of ours"):
        read_picture(png())


def test_a_text_behind_the_pixels_is_found(png: Save) -> None:
    path = png(None, None)
    raw = path.read_bytes()
    end = len(raw) - 12  # IEND
    text = b"dreamforge\0" + json.dumps(OURS).encode()
    path.write_bytes(raw[:end] + chunk(b"tEXt", text) + raw[end:])
    assert parse_metadata(path, read_picture(path)).seed == 42


def test_a_rerun_asks_for_the_items_own_seed_once(png: Save) -> None:
    facts = parse_metadata(path := png(), read_picture(path))
    assert build_request(facts, "png", None) == {
        "width": 16,
        "height": 8,
        "steps": 20,
        "guidance": 7.5,
        "seed": 42,
        "count": 1,
        "format": "png",
        "preset": "cpu",
    }
    full = parse_metadata(
        path := png(wrong(negative_prompt="n", scheduler="euler")), read_picture(path)
    )
    request = build_request(full, "jpg", "gpu-8gb")
    assert (request["negative_prompt"], request["scheduler"]) == ("n", "euler")
    assert (request["format"], request["preset"]) == ("jpg", "gpu-8gb")


def test_a_rerun_of_an_enlarged_picture_asks_for_both_steps(
    png: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    enlarged = wrong(
        type="upscale",
        step="upscale",
        upscale={"scale": 2, "impl": "resample", "model": None},
        input={"sha256": HASH, "width": 8, "height": 4},
    )
    path = png(enlarged)
    assert "2 times by resample" in inspect_output(capsys, path)
    request = build_request(parse_metadata(path, read_picture(path)), "png", None)
    assert (request["width"], request["height"], request["seed"]) == (8, 4, 42)
    assert request["chain"] == {"upscale": {"scale": 2, "impl": "resample"}}
    for half in (wrong(type="upscale"), wrong(type="video")):
        path = png(half)
        with pytest.raises(Failure, match="which cannot be repeated"):
            build_request(parse_metadata(path, read_picture(path)), "png", None)


class Models:
    """An API that has these models."""

    def __init__(self, *models: tuple[str, str, str]) -> None:
        self.rows = [
            {"id": f"id-{name}", "name": name, "version": version, "checkpoint_sha256": checkpoint}
            for name, version, checkpoint in models
        ]

    def models(self) -> Any:
        return {"models": self.rows}


def test_the_model_is_found_by_its_checkpoint_and_by_nothing_else(png: Save) -> None:
    facts = parse_metadata(path := png(), read_picture(path))
    renamed: Any = Models(("m", "1", "f" * 64), ("other", "2", HASH))
    assert find_model(renamed, facts.model) == "id-other"
    changed: Any = Models(("m", "1", "f" * 64))
    with pytest.raises(Failure, match="m@1 is installed with another checkpoint, ffffffffffff"):
        find_model(changed, facts.model)
    absent: Any = Models(("n", "1", "f" * 64))
    with pytest.raises(Failure, match="no model with the picture's checkpoint"):
        find_model(absent, facts.model)


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_what_the_runner_writes_is_what_inspect_reads(form: Any, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{form}"
    path.write_bytes(encoded(about := facts(prompt="a \u732b"), form))
    picture = read_picture(path)
    assert picture.parameters == parameters_text(about, 16, 8)
    assert picture.dreamforge == full_metadata(about, 16, 8)
    assert (picture.format, parse_metadata(path, picture).prompt) == (form, "a \u732b")


def test_the_model_that_enlarged_a_picture_is_found_by_its_checkpoint_too(png: Save) -> None:
    used = OURS["model"] | {"name": "esrgan", "kind": "esrgan", "checkpoint_sha256": "e" * 64}
    enlarged = wrong(
        type="upscale",
        upscale={"scale": 4, "impl": "gan", "model": used},
        input={"sha256": HASH, "width": 8, "height": 4},
    )
    facts = parse_metadata(path := png(enlarged), read_picture(path))
    api: Any = Models(("m", "1", HASH), ("renamed", "1", "e" * 64))
    upscaler = find_upscaler(api, facts)
    chain = build_request(facts, "png", None, upscaler=upscaler)["chain"]
    assert chain == {"upscale": {"scale": 4, "impl": "gan", "model_id": "id-renamed"}}
    with pytest.raises(Failure, match="no model with the picture's checkpoint"):
        find_upscaler(Models(("m", "1", HASH)), facts)  # type: ignore[arg-type]


def test_a_picture_that_came_out_otherwise_says_what_was_not_the_same(png: Save) -> None:
    before = read_picture(png(OURS | {"jpeg_quality": 95}))
    after = read_picture(
        png(OURS | {"jpeg_quality": 80, "software": {"torch": "3", "pillow": "1"}})
    )
    assert differences(before, after) == [
        "jpeg_quality 80 (was 95)",
        "pillow 1 (was unknown)",
        "torch 3 (was 2)",
    ]
    assert differences(before, before) == []


# What other tools write ---------------------------------------------------------------------------

PROMPT = "a cat, Äpfel \u732b\nSteps: 20, Sampler: Euler, Seed: 1"
BOM = "\ufeff"


def exif_with(comment: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    return exif.tobytes()


COMMENTS = {
    "utf-16-be": b"UNICODE\0" + PROMPT.encode("utf-16-be"),
    "utf-16-le": b"UNICODE\0" + PROMPT.encode("utf-16-le"),
    "utf-16-be with a mark": b"UNICODE\0" + (BOM + PROMPT).encode("utf-16-be"),
    "utf-16-le with a mark": b"UNICODE\0" + (BOM + PROMPT).encode("utf-16-le"),
    "utf-8 called unicode": b"UNICODE\0" + PROMPT.encode(),
    "utf-8 called unicode, with a mark": b"UNICODE\0" + (BOM + PROMPT).encode(),
    "utf-8 called ascii": b"ASCII\0\0\0" + PROMPT.encode(),
    "utf-8 called undefined": bytes(8) + PROMPT.encode(),
    "utf-16 called undefined": bytes(8) + PROMPT.encode("utf-16-le"),
    "utf-16 called ascii": b"ASCII\0\0\0" + PROMPT.encode("utf-16-be"),
    "utf-8 without a name": PROMPT.encode(),
    "utf-16 without a name": PROMPT.encode("utf-16-be"),
    "a name in small letters": b"Unicode\0" + PROMPT.encode("utf-16-le"),
    "zeros behind it": b"UNICODE\0" + PROMPT.encode("utf-16-be") + bytes(40),
    "utf-8 called utf-8": b"UTF-8\0\0\0" + PROMPT.encode(),
    "utf-16 called utf-16": b"UTF16LE\0" + PROMPT.encode("utf-16-le"),
    "utf-32 with a mark": b"UNICODE\0" + (BOM + PROMPT).encode("utf-32-le"),
}


@pytest.mark.parametrize("comment", COMMENTS.values(), ids=COMMENTS.keys())
@pytest.mark.parametrize("form", ["jpg", "webp", "avif", "png"])
def test_a_comment_is_read_as_it_was_written(form: str, comment: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{form}"
    Image.new("RGB", (16, 8)).save(path, exif=exif_with(comment))
    picture = read_picture(path)
    assert (picture.format, picture.parameters) == (form, PROMPT)


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_comment_of_latin_letters_is_told_by_its_bytes(
    encoding: str, little_endian: bool
) -> None:
    raw = b"UNICODE\0" + "a red apple".encode(encoding)
    assert decode_comment(raw, little_endian=little_endian) == "a red apple"


# The first letter of many Chinese prompts is U+4E00, which is half zeros.
PROMPTS = (
    *("\u4e00\u53ea\u732b", "\u4e00\u4e2a\u5973\u5b69", "\u5341\u4e00", "1girl, \u4e00"),
    *("\u308a\u3093\u3054 \u8d64\u3044", "\ud55c\uad6d\uc5b4", "\u05e9\u05dc\u05d5\u05dd"),
    *("\u0645\u0631\u062d\u0628\u0627", "\u0e44\u0e17\u0e22", "\u0939\u093f\u0928\u094d\u0926"),
    *("\u043a\u0440\u0430\u0441\u043d", "\u0100\u0101", "caf\u00e9", "\U0001f34e apple", "red"),
)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_a_comment_of_any_script_is_read_in_either_order(encoding: str) -> None:
    for prompt, little_endian, cut in product(PROMPTS, (True, False), (True, False)):
        raw = prompt.encode(encoding)
        if cut and raw.endswith(b"\0"):  # some tools strip zeros, with them half of a letter
            raw = raw[:-1]
        assert decode_comment(b"UNICODE\0" + raw, little_endian=little_endian) == prompt


@pytest.mark.parametrize(("little_endian", "encoding"), [(True, "utf-16-le"), (False, "utf-16-be")])
def test_a_comment_without_latin_letters_follows_the_order_of_its_block(
    encoding: str, little_endian: bool
) -> None:
    raw = b"UNICODE\0" + "\u732b\u8033".encode(encoding)
    assert decode_comment(raw, little_endian=little_endian) == "\u732b\u8033"


@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + "cat ".encode("utf-16-be") + b"\xd8\x00",
        b"ASCII\0\0\0" + b"cat \xff\xfe\xe9",
        b"UNICODE\0c",
        b"UNI",
        b"JIS\0\0\0\0\0\x1b\x24",
        bytes(8),
        b"",
    ],
)
def test_a_comment_that_cannot_be_decoded_is_no_broken_picture(
    comment: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=exif_with(comment))
    assert read_picture(path).format == "jpg"


@pytest.mark.parametrize("encoding", ["iso2022_jp", "utf-8", "euc_jp", "cp932"])
def test_japanese_in_its_own_charset_is_read(encoding: str) -> None:
    raw = b"JIS\0\0\0\0\0" + "りんごと猫".encode(encoding)
    assert decode_comment(raw, little_endian=True) == "りんごと猫"


def test_a_broken_block_of_exif_is_named(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 9)
    assert read_picture(path).width == 16
    raw = path.read_bytes()
    for order in (b"XX\0*", b"MM\0\0"):
        path.write_bytes(raw.replace(b"MM\0*", order))
        assert read_picture(path).width == 16


TOOLS = {
    "ComfyUI": {"prompt": '{"3": {"class_type": "KSampler"}}', "workflow": "{}"},
    "InvokeAI": {"invokeai_metadata": '{"positive_prompt": "a cat"}'},
    "NovelAI": {"Software": "NovelAI", "Description": "a cat", "Comment": "{}"},
    "Fooocus": {"fooocus_scheme": "fooocus", "parameters": '{"prompt": "a cat"}'},
    "SwarmUI": {"parameters": '{"sui_image_params": {"prompt": "a cat"}}', "Author": "x"},
    "Easy Diffusion": {"prompt": "a cat", "use_stable_diffusion_model": "sd"},
    "Midjourney": {"Description": "a cat Job ID: 1", "Author": "x"},
    "Draw Things": {"XML:com.adobe.xmp": "<x:xmpmeta>Draw Things, a cat</x:xmpmeta>"},
    "not known": {"dreamforge": "a text of somebody else", "Author": "x"},
    "Dream Forge": {"dreamforge": '{"schema_version": 99, "prompt": "from tomorrow"}'},
}


@pytest.mark.parametrize(("tool", "texts"), TOOLS.items(), ids=TOOLS.keys())
def test_what_another_tool_wrote_is_shown_with_its_name(
    tool: str, texts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "picture.png"
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.new("RGB", (16, 8)).save(path, pnginfo=info)
    assert run(["inspect", str(path)]) == 0
    shown = capsys.readouterr()
    for name, text in texts.items():
        assert f"{name}: {text}" in shown.out
    assert tool in shown.err
    assert ("Dream Forge" in shown.err) is (tool == "Dream Forge")
    assert "PNG, 16x8 pixels" in shown.err
    assert run(["inspect", str(path), "--output", "json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["format"] == "png"
    assert run(["inspect", str(path), "--rerun"]) == USAGE


def described(text: bytes) -> bytes:
    """An EXIF block of one ImageDescription."""
    head = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x0e\0\x02"
    return head + struct.pack(">I", len(text)) + b"\0\0\0\x1a\0\0\0\0" + text


FOREIGN = '{"prompt": "a cat", "steps": 3}'


@pytest.mark.parametrize(
    ("form", "options", "name", "text"),
    [
        ("jpg", {"comment": FOREIGN.encode()}, "comment", FOREIGN),
        ("gif", {"comment": FOREIGN.encode()}, "comment", FOREIGN),
        ("webp", {"exif": described(FOREIGN.encode())}, "ImageDescription", FOREIGN),
        ("webp", {"exif": described(b"{ no JSON }")}, "ImageDescription", "{ no JSON }"),
        (
            "jpg",
            {"exif": described("\u043a\u043e\u0442".encode())},
            "ImageDescription",
            "\u043a\u043e\u0442",
        ),
        ("jpg", {"xmp": b"<x:xmpmeta>a cat</x:xmpmeta>  "}, "XMP", "<x:xmpmeta>a cat</x:xmpmeta>"),
        ("webp", {"xmp": b"<x:xmpmeta>a cat</x:xmpmeta>"}, "XMP", "<x:xmpmeta>a cat</x:xmpmeta>"),
    ],
)
def test_a_text_of_another_tool_is_not_called_ours(
    form: str, options: dict[str, Any], name: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{form}"
    Image.new("RGB", (16, 8)).save(path, **options)
    picture = read_picture(path)
    assert (picture.dreamforge, picture.texts) == (None, {name: text})
    assert tool_of(picture.all_texts) is None


def test_the_workflow_in_a_webp_of_comfyui_is_known(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = 'workflow:{"nodes": []}', 'prompt:{"3": {}}'
    Image.new("RGB", (16, 8)).save(tmp_path / "picture.webp", exif=exif)
    assert tool_of(read_picture(tmp_path / "picture.webp").all_texts) == "ComfyUI"


def test_utf_8_in_a_chunk_that_is_meant_for_latin_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    for text, encoding in (("\u043a\u043e\u0442, caf\u00e9", "utf-8"), ("caf\u00e9", "latin-1")):
        Image.new("RGB", (16, 8)).save(path)
        with_chunk(path, b"tEXt", b"parameters\0" + text.encode(encoding))
        assert read_picture(path).parameters == text


def test_content_credentials_are_named(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (16, 8)).save(path)
    with_chunk(path, b"caBX", bytes(1234))
    assert "1234 bytes" in read_picture(path).texts["C2PA"]


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        *(
            (b"II*\0", "a TIFF"),
            (b"BM\0\0", "a BMP"),
            (b"\xff\x0a", "a JPEG XL"),
            (b"", "it is empty"),
        ),
        *((b"\0\0\0\x18ftypheic", "a HEIC"), (b"\0\0\0\x18ftypisom", "a video")),
        *((b"<svg>", "an SVG"), (b"version https://git-lfs", "Git LFS"), (b"{}", "GIF file$")),
    ],
)
def test_a_file_of_another_format_is_called_what_it_is(
    begin: bytes, what: str, tmp_path: Path
) -> None:
    (tmp_path / "picture").write_bytes(begin)
    with pytest.raises(Failure, match=what) as failure:
        read_picture(tmp_path / "picture")
    assert failure.value.message.count(str(tmp_path)) == 1


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "avif", "gif"])
def test_a_sound_picture_that_says_nothing_is_called_what_it_is(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"picture.{form}"
    Image.new("RGB", (16, 8)).save(path)
    assert run(["inspect", str(path)]) == USAGE
    assert f"{form.upper()}, 16x8 pixels; it says nothing" in capsys.readouterr().err


def test_the_comment_of_a_gif_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "picture.gif"
    Image.new("RGB", (16, 8)).save(path, comment="a cat")
    assert read_picture(path).texts == {"comment": "a cat"}


def test_a_damaged_avif_is_no_whole_picture(tmp_path: Path) -> None:
    """Its decoder raises another error than those of all other formats."""
    place = tmp_path / "picture.avif"
    Image.effect_noise((40, 40), 50).convert("RGB").save(place)
    head, mark, data = place.read_bytes().partition(b"mdat")
    place.write_bytes(head + mark + bytes(len(data)))
    with pytest.raises(Failure, match="not a whole"):
        read_picture(place)
