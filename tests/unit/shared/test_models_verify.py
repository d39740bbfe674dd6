from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.support.headers import of_shapes, safetensors
from tests.support.model_folders import INDEX, SOUND, WEIGHTS, write_folder

from shared.errors import ModelUnavailable
from shared.models.check import check_folder
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import (
    Defaults,
    ModelDescriptor,
    Range,
    Source,
    parameter_problems,
    parameters_schema,
)
from shared.models.families import SCHEDULERS
from shared.models.folder import DESCRIPTOR
from shared.models.safetensors_header import tensor_shapes
from shared.models.verify import check_installed, read_model, verify_model, write_descriptor


def tensor(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


# One tensor under a name that is there twice: each of the two alone would be sound.
TWICE = b'{"a":%b,"a":%b}' % ((json.dumps(tensor(0, 8)).encode(),) * 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


@pytest.fixture
def model(folder: Path) -> ModelDescriptor:
    descriptor = describe_folder(
        folder, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    write_descriptor(folder, descriptor)
    return descriptor


def refuses(folder: Path, name: str, why: str) -> None:
    """`check_folder` must refuse, name the file and its fault, and keep the host's path quiet."""
    with pytest.raises(ModelUnavailable, match=why) as caught:
        check_folder(folder)
    assert caught.value.message.startswith(f"{name}: ")
    assert caught.value.details["file"] == name
    assert str(folder.parent) not in caught.value.message


def test_described_folder_is_read_back_and_verifies(folder: Path, model: ModelDescriptor) -> None:
    assert read_model(folder) == model
    verify_model(folder, model)
    assert check_installed(folder, checkpoint_sha256=model.checkpoint_sha256) == model
    assert (folder / DESCRIPTOR).stat().st_mode & 0o777 == 0o644


def test_descriptor_lists_every_file_but_itself_sorted(model: ModelDescriptor) -> None:
    paths = [file.path for file in model.files]
    assert paths == sorted(paths)
    assert WEIGHTS in paths
    assert "LICENSE" in paths
    assert DESCRIPTOR not in paths


def test_checkpoint_hash_is_over_the_sorted_sums_of_the_weights(model: ModelDescriptor) -> None:
    one = hashlib.sha256(SOUND).hexdigest()
    names = ("text_encoder/model.safetensors", WEIGHTS, "vae/model.safetensors")
    text = "".join(f"{one}  {name}\n" for name in names)
    assert model.checkpoint_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_kind_and_native_size_come_from_the_folder(model: ModelDescriptor) -> None:
    assert model.kind == "sd"
    assert (model.defaults.width, model.defaults.height) == (64, 64)
    assert model.limits.width == Range(min=16, max=256)


def add_transformer(folder: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    """Give the folder a transformer of the class `name`; returns its entry for the index."""
    (folder / "transformer").mkdir()
    (folder / "transformer/config.json").write_text(json.dumps(config))
    (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(SOUND)
    return {"transformer": ["diffusers", name]}


def make_flux(folder: Path, index: dict[str, Any]) -> None:
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / part, folder / f"{part}_2")
        index[f"{part}_2"] = index[part]
    index["_class_name"] = "FluxPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))


def of_class(folder: Path, name: str) -> ModelDescriptor:
    entry = add_transformer(folder, {}, "PixArtTransformer2DModel")
    (folder / "model_index.json").write_text(json.dumps(INDEX | entry | {"_class_name": name}))
    return describe_folder(
        folder, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )


@pytest.mark.parametrize(
    ("name", "longest"), [("PixArtSigmaPipeline", 4096), ("LatentConsistencyModelPipeline", 0)]
)
def test_a_pipeline_without_a_kind_of_its_own_is_auto(
    folder: Path, name: str, longest: int
) -> None:
    descriptor = of_class(folder, name)
    assert descriptor.kind == "auto"
    schema = parameters_schema(descriptor)["properties"]
    assert schema["scheduler"]["enum"] == [None]
    assert schema["negative_prompt"]["maxLength"] == longest


@pytest.mark.parametrize("name", ["StableDiffusionXLImg2ImgPipeline", "LTXPipeline", "Mine"])
def test_a_pipeline_that_makes_no_picture_from_a_text_is_refused_with_those_that_do(
    folder: Path, name: str
) -> None:
    with pytest.raises(
        ModelUnavailable, match=f"'{name}' is no pipeline .* these do: .*PixArtSigma"
    ):
        of_class(folder, name)


@pytest.mark.parametrize(("embeds", "maximum", "steps"), [(True, 50, 28), (False, 0, 4)])
def test_guidance_is_for_a_flux_that_has_an_input_for_it(
    folder: Path, embeds: bool, maximum: int, steps: int
) -> None:
    entry = add_transformer(folder, {"guidance_embeds": embeds}, "FluxTransformer2DModel")
    make_flux(folder, INDEX | entry)
    descriptor = describe_folder(
        folder, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    guidance = parameters_schema(descriptor)["properties"]["guidance"]
    assert (guidance["maximum"], descriptor.defaults.steps) == (maximum, steps)
    assert guidance["default"] <= maximum


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".PT"])
def test_pickles_are_refused_with_the_reason(folder: Path, suffix: str) -> None:
    (folder / f"unet/weights{suffix}").write_bytes(b"\x80\x04")
    refuses(folder, f"unet/weights{suffix}", "a pickle, which can run any code")


@pytest.mark.parametrize("name", ["pipeline.py", "run.sh", ".DS_Store", "unet/model.onnx"])
def test_other_kinds_of_files_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    refuses(folder, name, "not a kind of file that belongs into a model")


def test_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (folder / "unet/extra.json").symlink_to(outside)
    refuses(folder, "unet/extra.json", "a link, not a file of this folder")


def test_linked_directory_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "extra").symlink_to(tmp_path / "elsewhere")
    refuses(folder, "extra", "a link, not a file of this folder")


@pytest.mark.parametrize("target", ["diffusion_pytorch_model.safetensors", "nothing", "again.json"])
def test_link_within_the_folder_is_refused_wherever_it_points(folder: Path, target: str) -> None:
    (folder / "unet/again.json").symlink_to(target)
    refuses(folder, "unet/again.json", "a link, not a file of this folder")


def test_a_file_that_may_not_be_read_is_a_model_that_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object, name: str) -> None:
        if name == WEIGHTS:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shared.models.check.weights_shapes", denied)  # root may read everything
    refuses(folder, WEIGHTS, "Permission denied")


def test_shards_that_are_no_object_are_refused(folder: Path) -> None:
    (folder / "unet/x.safetensors.index.json").write_text('{"weight_map": [1]}')
    refuses(folder, "unet/x.safetensors.index.json", "weight_map must be an object")


def test_weights_that_contradict_the_index_are_refused(folder: Path) -> None:
    index = INDEX | {"_class_name": "FluxPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    shapes = dict.fromkeys(("conv_in.bias", "down_blocks.0.x", "up_blocks.0.x"), (1,))
    (folder / WEIGHTS).write_bytes(of_shapes(shapes))
    with pytest.raises(ModelUnavailable, match="says flux, but the weights are those of sd or"):
        describe_folder(folder, DescriptorInput(name="m", version="1", source=Source(uri="test:")))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("unet/config.json", {"sample_size": 1_000_000}, "limits"),
        ("vae/config.json", {"block_out_channels": 4}, ""),
    ],
)
def test_a_configuration_that_makes_no_sense_is_no_crash(
    folder: Path, name: str, content: dict[str, Any], why: str
) -> None:
    (folder / name).write_text(json.dumps(content))
    if not why:
        found = describe_folder(
            folder, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
        )
        assert found.defaults.width == 512  # what the kind was made for
        return
    with pytest.raises(ModelUnavailable, match=why):
        describe_folder(folder, DescriptorInput(name="m", version="1", source=Source(uri="test:")))


def test_pipe_in_place_of_a_file_is_refused_without_reading_it(folder: Path) -> None:
    os.mkfifo(folder / "unet/extra.json")
    refuses(folder, "unet/extra.json", "not a regular file")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "of 0"),
        (b"1234", "of 4"),
        (b"<!doctype html><html>Please sign in</html>", "header would be"),
        (struct.pack("<Q", 2**40) + b"{}", "header would be"),
        (safetensors(b"{nonsense", b""), "not JSON"),
        (safetensors(b"[" * 100_000, b""), "not JSON"),
        (safetensors([1], b""), "invalid type: sequence"),
        (safetensors({"a": 1}, b""), "expected struct TensorInfo"),
        (safetensors({"a": tensor(0, 9)}, b"12345678"), "not fully covered .* 76 bytes"),
        (safetensors({"a": tensor(0, 4) | {"data_offsets": [4, 2]}}, b"12345678"), "tensor `a`"),
        (safetensors({"a": tensor(0, 8) | {"data_offsets": [0]}}, b"12345678"), "invalid length 1"),
        (safetensors({"a": tensor(0, 8) | {"dtype": "U7"}}, b"12345678"), "variant `U7`"),
        (safetensors({"a": tensor(0, 8) | {"dtype": "F16"}}, b"12345678"), "invalid shape"),
        (safetensors({"a": tensor(0, 8) | {"shape": [-8]}}, b"12345678"), "integer `-8`"),
        (safetensors({"a": tensor(0, 8) | {"shape": [8.0]}}, b"12345678"), "floating point `8.0`"),
        (safetensors({"a": tensor(0, 8) | {"shape": [True] * 8}}, b"12345678"), "boolean `true`"),
        (safetensors({"a": tensor(0, 8) | {"shape": [2**62] * 2}}, b"12345678"), "overflow"),
        (safetensors({"a": tensor(0, 8) | {"shape": [2**63]}}, b"12345678"), "overflow"),
        (safetensors({"a": tensor(0, 8) | {"shape": [8] + [1] * 16}}, b"12345678"), "than 16 dim"),
        (safetensors({"a": tensor(0, 4) | {"dtype": "F4", "shape": [7]}}, b"1234"), "subbytes"),
        (safetensors({"a": tensor(0, 5), "b": tensor(4, 8)}, b"12345678"), "offset for tensor `b`"),
        (safetensors({"a": tensor(0, 3), "b": tensor(4, 8)}, b"12345678"), "offset for tensor `b`"),
        (safetensors(b'{"a": 1, "a": 2}', b""), "names something twice"),
        (safetensors(TWICE, b"12345678"), "names something twice"),
        (safetensors(b'{"__metadata__":{"x":"1","x":"2"}}', b""), "names something twice"),
        (safetensors({"__metadata__": {"x": 1}}, b""), "expected a string"),
        (safetensors(b'{"\xff": 1}', b""), "not JSON"),
        (safetensors({"a": tensor(0, 4)}, b"12345678"), "not fully covered"),
        (SOUND[:-1], "not fully covered"),
        (SOUND + b"9", "not fully covered"),
    ],
)
def test_unsound_safetensors_are_refused(folder: Path, content: bytes, why: str) -> None:
    (folder / WEIGHTS).write_bytes(content)
    refuses(folder, WEIGHTS, why)


def test_what_a_file_says_of_itself_reaches_no_terminal(folder: Path) -> None:
    escape = {"\x1b[2J" + "x" * 500: tensor(4, 8)}  # the library names it: its offset is wrong
    content = safetensors({"a": tensor(0, 3)} | escape, b"12345678")
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelUnavailable, match="invalid offset") as caught:
        check_folder(folder)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_the_shapes_of_every_dtype_are_read(tmp_path: Path) -> None:
    bits = {"BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F4": 4, "F6_E2M3": 6, "C64": 64, "BOOL": 8}
    for dtype, size in bits.items():
        entry = {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, size]}
        (tmp_path / "x.safetensors").write_bytes(safetensors({"a": entry}, b"x" * size))
        assert tensor_shapes(tmp_path, "x.safetensors") == {"a": (2, 4)}


def test_header_over_the_bound_is_refused_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = of_shapes({"a" * 200: (1,)})
    (folder / WEIGHTS).write_bytes(longer)
    monkeypatch.setattr("shared.models.safetensors_header.MAX_HEADER_BYTES", len(SOUND))
    refuses(folder, WEIGHTS, "header would be")


@pytest.mark.parametrize("name", ["model_index.json", "unet", "unet/config.json"])
def test_missing_part_is_named(folder: Path, model: ModelDescriptor, name: str) -> None:
    target = folder / name
    if target.is_dir():
        for child in target.iterdir():
            child.unlink()
        target.rmdir()
    else:
        target.unlink()
    with pytest.raises(ModelUnavailable, match=name):
        check_installed(folder, checkpoint_sha256=model.checkpoint_sha256)


def test_component_without_weights_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    refuses(folder, "unet/", "no safetensors file")


def test_missing_shard_is_named(folder: Path) -> None:
    names = {"a": "diffusion_pytorch_model.safetensors", "b": "second.safetensors"}
    shards = {"metadata": {}, "weight_map": names}
    (folder / "unet/x.safetensors.index.json").write_text(json.dumps(shards))
    refuses(folder, "unet/second.safetensors", "missing")


@pytest.mark.parametrize("library", ["os", "my_package.evil", "https://example.org/code"])
def test_index_that_asks_for_foreign_code_is_refused(folder: Path, library: str) -> None:
    (folder / "model_index.json").write_text(json.dumps(INDEX | {"unet": [library, "Model"]}))
    refuses(folder, "model_index.json", "unet asks for code outside diffusers")


def test_index_with_a_custom_pipeline_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps(INDEX | {"_class_name": ["mine", "Pipe"]}))
    refuses(folder, "model_index.json", "stock pipeline")


def test_changed_byte_passes_the_cheap_check_and_fails_the_full_one(
    folder: Path, model: ModelDescriptor
) -> None:
    (folder / WEIGHTS).write_bytes(SOUND[:-1] + b"X")
    check_installed(folder, checkpoint_sha256=model.checkpoint_sha256)
    with pytest.raises(ModelUnavailable, match=f"{WEIGHTS}: its content has changed"):
        verify_model(folder, model)


def test_changed_size_and_unlisted_file_fail_the_cheap_check(
    folder: Path, model: ModelDescriptor
) -> None:
    (folder / "LICENSE").write_text("changed")
    with pytest.raises(ModelUnavailable, match="LICENSE: 7 bytes, should be 4"):
        check_installed(folder, checkpoint_sha256=model.checkpoint_sha256)
    (folder / "LICENSE").write_text("free")
    (folder / "extra.txt").write_text("")
    with pytest.raises(ModelUnavailable, match=r"extra\.txt: not listed"):
        check_installed(folder, checkpoint_sha256=model.checkpoint_sha256)


def test_another_checkpoint_than_the_pinned_one_is_refused(
    folder: Path, model: ModelDescriptor
) -> None:
    with pytest.raises(ModelUnavailable, match="another checkpoint"):
        check_installed(folder, checkpoint_sha256="0" * 64)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"kind": "gan"}, "kind"),
        ({"name": "../escape"}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"checkpoint_sha256": "0" * 64}, "checkpoint_sha256"),
        ({"defaults": {"width": 65, "height": 64, "steps": 4, "guidance": 3}}, "multiple of 8"),
        ({"defaults": {"width": 512, "height": 64, "steps": 4, "guidance": 3}}, "from 16 to 256"),
        ({"files": [{"path": "../x", "size_bytes": 1, "sha256": "0" * 64}]}, "files.0.path"),
    ],
)
def test_descriptor_with_a_fault_is_refused_by_field(
    folder: Path, model: ModelDescriptor, change: dict[str, Any], why: str
) -> None:
    data = json.loads((folder / DESCRIPTOR).read_text()) | change
    (folder / DESCRIPTOR).write_text(json.dumps(data))
    with pytest.raises(ModelUnavailable, match=why) as caught:
        read_model(folder)
    assert caught.value.message.startswith(f"{DESCRIPTOR}: ")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "\udcff"}'])
def test_descriptor_that_is_no_json_object_is_refused(folder: Path, content: str) -> None:
    (folder / DESCRIPTOR).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelUnavailable, match=DESCRIPTOR):
        read_model(folder)


def test_missing_folder_is_model_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="missing"):
        read_model(tmp_path / "nothing")
    with pytest.raises(ModelUnavailable, match="missing"):
        check_folder(tmp_path / "nothing")


def test_schema_carries_limits_defaults_and_schedulers(model: ModelDescriptor) -> None:
    properties = parameters_schema(model)["properties"]
    assert properties["width"] == {
        "type": "integer",
        "minimum": 16,
        "maximum": 256,
        "default": 64,
        "multipleOf": 8,
    }
    assert "dpmpp_2m_karras" in properties["scheduler"]["enum"]
    assert "flow_match_euler" not in properties["scheduler"]["enum"]
    assert set(properties) == {
        *("width", "height", "steps", "guidance", "scheduler", "count", "format"),
        *("negative_prompt", "image", "strength", "mask", "loras"),
    }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"prediction_type": "sample"}, "must be one of: null, ddim, euler, heun, dpmpp_2m, "),
        ({"prediction_type": "flow_prediction"}, "must be one of: null"),
        ({"beta_schedule": "sigmoid"}, "must be one of: null"),
    ],
)
def test_a_named_scheduler_that_does_not_fit_a_model_is_refused_by_name(
    config: dict[str, str], said: str, folder: Path
) -> None:
    own = folder / "scheduler/scheduler_config.json"
    own.write_text(json.dumps(json.loads(own.read_text()) | config))
    described = describe_folder(
        folder, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    values = described.defaults.model_dump()
    assert parameter_problems(described, values) == {}
    refused = parameter_problems(described, values | {"scheduler": "pndm"})
    assert refused["scheduler"].startswith(said)


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("width", 64, None),
        ("width", 65, "must be a multiple of 8"),
        ("width", 8, "must be from 16 to 256"),
        ("height", 264, "must be from 16 to 256"),
        ("width", 64.0, "must be of type integer"),
        ("steps", True, "must be of type integer"),
        ("steps", 201, "must be from 1 to 200"),
        ("guidance", 7, None),
        ("guidance", 7.25, None),
        ("guidance", 50.5, r"must be from 0 to 50.0"),
        ("scheduler", None, None),
        ("scheduler", "euler", None),
        ("scheduler", "magic", "must be one of: null, ddim"),
        ("count", 101, "must be from 1 to 100"),
        ("format", "gif", "must be one of: png, jpg"),
        ("prompt", "not the model's business", None),
    ],
)
def test_parameters_are_checked_and_the_accepted_is_said(
    model: ModelDescriptor, field: str, value: object, accepted: str | None
) -> None:
    problems = parameter_problems(model, {field: value})
    if accepted is None:
        assert problems == {}
    else:
        assert problems[field].startswith(accepted)


@pytest.mark.parametrize(
    ("guidance", "refused"), [(0, True), (0.5, True), (1, True), (1.01, False), (7.5, False)]
)
def test_a_negative_prompt_needs_guidance_to_have_an_effect(
    model: ModelDescriptor, guidance: float, refused: bool
) -> None:
    asked = {"guidance": guidance, "negative_prompt": "red"}
    problems = parameter_problems(model, asked)
    assert set(problems) == ({"negative_prompt"} if refused else set())
    if refused:
        assert "no effect with so little guidance" in problems["negative_prompt"]
    assert parameter_problems(model, {"guidance": guidance, "negative_prompt": ""}) == {}
    assert parameter_problems(model, {"negative_prompt": "red"}) == {}


@pytest.mark.parametrize(("name", "weakest"), [("ZImagePipeline", 0.0), ("ChromaPipeline", 1.0)])
def test_guidance_begins_where_the_class_of_auto_says(
    folder: Path, name: str, weakest: float
) -> None:
    model = of_class(folder, name)
    asked = {"guidance": weakest, "negative_prompt": "red"}
    assert "negative_prompt" in parameter_problems(model, asked)
    assert parameter_problems(model, asked | {"guidance": weakest + 0.1}) == {}


def test_transformers_with_paired_latents_want_multiples_of_sixteen(folder: Path) -> None:
    entry = add_transformer(folder, {}, "FluxTransformer2DModel")
    make_flux(folder, INDEX | entry)
    model = describe_folder(
        folder,
        DescriptorInput(
            name="m",
            version="1",
            source=Source(uri="test:"),
            defaults=Defaults(width=64, height=64, steps=4, guidance=0.0),
        ),
    )
    assert parameter_problems(model, {"width": 72})["width"] == "must be a multiple of 16"


def test_scheduler_names_are_unique_and_reach_the_runner_as_plain_text() -> None:
    assert len(set(SCHEDULERS)) == len(SCHEDULERS)
    assert all(name == name.lower() and name.isascii() for name in SCHEDULERS)
