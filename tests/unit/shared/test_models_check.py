"""Folders that lead elsewhere or that no library could load are refused when they are installed."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import diffusers
import pytest
import transformers
from tests.support.headers import of_shapes
from tests.support.model_folders import INDEX, SOUND, write_folder

from shared.errors import ModelUnavailable
from shared.models.auto_pipelines import AUTO_PIPELINES
from shared.models.check import check_folder
from shared.models.components import CLASSES, NEEDED, READ_THEIR_CARD, is_allowed
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source
from shared.models.families import FAMILIES
from shared.models.folder import DESCRIPTOR
from shared.models.json_files import MAX_CONFIG_BYTES, MAX_DEPTH, read_json
from shared.models.verify import read_descriptor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def refusal(folder: Path) -> str:
    """Why the folder cannot be installed. The path of this host is never said."""
    with pytest.raises(ModelUnavailable) as caught:
        describe_folder(folder, DescriptorInput(name="m", version="1", source=Source(uri="test:")))
    assert str(folder) not in caught.value.message
    assert caught.value.message.isprintable() and len(caught.value.message) < 500
    return caught.value.message


def index(folder: Path, **changes: Any) -> None:
    (folder / "model_index.json").write_text(json.dumps(INDEX | changes))


@pytest.mark.parametrize("place", ["unet", "unet/deeper", "config", "tokenizer", "elsewhere"])
def test_a_pipeline_inside_a_pipeline_is_refused_at_any_depth(folder: Path, place: str) -> None:
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / "model_index.json").write_text(json.dumps(INDEX))
    assert refusal(folder).startswith(f"{place}/model_index.json: a pipeline inside a pipeline")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin.index.json",
        "pytorch_model.bin.index.fp16.json",
        "diffusion_pytorch_model.bin.index.json",
        "flax_model.msgpack.index.json",
        "tf_model.h5.index.json",
        "model.index.json",
        "MODEL.SAFETENSORS.INDEX.JSON",
    ],
)
@pytest.mark.parametrize("place", ["", "unet/", "text_encoder/deeper/"])
def test_an_index_of_other_weights_than_safetensors_is_refused(
    folder: Path, place: str, name: str
) -> None:
    path = folder / place / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "../../evil.bin"}}))
    assert refusal(folder).startswith(f"{place}{name}: an index of weights that are no safe")


@pytest.mark.parametrize(
    "shard",
    ["../vae/model.safetensors", "/etc/x.safetensors", "evil.bin", "", ".", "x.safetensors.bin"],
)
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_an_index_names_safetensors_of_its_own_folder(
    folder: Path, variant: str, shard: str
) -> None:
    name = f"unet/diffusion_pytorch_model.safetensors.index{variant}.json"
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    assert refusal(folder) == f"{name}: {shard!r} is no safetensors file of its folder"


@pytest.mark.parametrize("place", ["", "unet/", "elsewhere/deeper/"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"metadata": {}, "weight_map": {"a": "gone.safetensors"}}, "gone.safetensors: missing"),
        ({"metadata": {}, "weight_map": {"a": ["x"]}}, "weight_map must be an object of file"),
        ({"metadata": {}, "weight_map": "x"}, "weight_map must be an object of file"),
        ({"weight_map": {}}, "metadata must be an object"),
        ([], "not a JSON object"),
    ],
)
def test_an_index_that_cannot_be_read_is_refused_wherever_it_is(
    folder: Path, place: str, content: Any, why: str
) -> None:
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / f"{place}model.safetensors.index.json").write_text(json.dumps(content))
    assert why in refusal(folder)


@pytest.mark.parametrize(
    "entry",
    [
        ["os", "system"],
        ["os", "system", "x"],
        [["os"], ["system"]],
        [["diffusers", "UNet2DConditionModel"]],
        ["diffusers"],
        ["diffusers", None],
        [None, "UNet2DConditionModel"],
        ["diffusers", "DiffusionPipeline"],
        ["diffusers", "StableDiffusionPipeline"],
        ["diffusers", "AutoModel"],
        ["diffusers", "FlashPackUNet2DConditionModel"],
        ["diffusers", "OnnxRuntimeModel"],
        ["diffusers", "unet2DConditionModel"],
        ["diffusers", "DDIMScheduler"],
        ["diffusers", ""],
        ["diffusers.models", "UNet2DConditionModel"],
        ["transformers", "AutoModel"],
        ["transformers", "RagModel"],
        ["transformers", "CLIPTokenizer"],
        ["transformers", "pipeline"],
        ["stable_diffusion", "StableDiffusionPipeline"],
        [{"a": 1}, 2],
    ],
)
def test_a_part_is_of_a_class_that_is_known(folder: Path, entry: list[Any]) -> None:
    index(folder, unet=entry)
    assert refusal(folder).startswith("model_index.json: unet ")


@pytest.mark.parametrize("entry", ["os", {"a": 1}, 3, None, [], [64, 64], [None, None]])
def test_a_part_that_an_index_gives_no_class_is_missing(folder: Path, entry: Any) -> None:
    index(folder, unet=entry)
    assert "StableDiffusionPipeline needs unet" in refusal(folder)


@pytest.mark.parametrize("part", ["scheduler", "tokenizer"])
def test_a_scheduler_and_a_tokenizer_are_of_their_own_sort(folder: Path, part: str) -> None:
    index(folder, **{part: ["diffusers", "AutoencoderKL"]})
    assert refusal(folder).startswith(f"model_index.json: {part} asks for code outside")


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "x.json"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "not readable as JSON"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "levels deep"),
        (b'"' + b"x" * MAX_CONFIG_BYTES + b'"', "a configuration has"),
        (b"\xef\xbb\xbf{}", "not readable as JSON"),
        ("{}".encode("utf-16"), "not readable as JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not readable as JSON"),
        (b"", "not readable as JSON"),
        (b'{"scaling_factor": NaN}', "not readable as JSON"),
    ],
)
def test_a_configuration_that_no_library_could_read_is_refused(
    folder: Path, name: str, content: bytes, why: str
) -> None:
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"{name}: ")
    assert why in refusal(folder)
    with pytest.raises(ModelUnavailable, match=why):
        check_folder(folder)


def test_a_file_without_weights_has_a_bound_and_is_not_read(folder: Path) -> None:
    for name in ("tokenizer/vocab.txt", "unet/config.json", "README.md", "tokenizer/spiece.model"):
        (folder / name).touch()
        size = (folder / name).stat().st_size
        with (folder / name).open("r+b") as sparse:
            sparse.truncate(1 << 40)
        assert refusal(folder).startswith(f"{name}: {1 << 40} bytes; ")
        with (folder / name).open("r+b") as sparse:
            sparse.truncate(size)
        if name != "unet/config.json":
            (folder / name).unlink()


def test_a_vocabulary_is_read_when_the_model_is_installed(folder: Path) -> None:
    (folder / "tokenizer/vocab.json").write_text("{" * 1000)
    assert refusal(folder).startswith("tokenizer/vocab.json: not readable as JSON")


@pytest.mark.parametrize("key", ["transformers_weights", "quantization_config"])
def test_a_configuration_that_wants_other_weights_is_refused(folder: Path, key: str) -> None:
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps({key: None}))
    check_folder(folder)
    config.write_text(json.dumps({key: "x"}))
    assert refusal(folder).startswith(f"text_encoder/config.json: {key}: ")


def test_an_adapter_that_names_another_model_is_refused(folder: Path) -> None:
    (folder / "text_encoder/adapter_config.json").write_text("{}")
    assert "an adapter, which names another model" in refusal(folder)


@pytest.mark.parametrize("name", sorted(READ_THEIR_CARD))
def test_a_card_from_which_a_pipeline_would_load_models_is_refused(folder: Path, name: str) -> None:
    (folder / "README.md").write_text("---\nprior:\n- somewhere/else\n---\n")
    check_folder(folder)
    index(folder, _class_name=name)
    assert refusal(folder).startswith("README.md: ")


def test_a_folder_of_countless_files_is_refused(folder: Path) -> None:
    for number in range(4100):
        (folder / f"{number}.txt").touch()
    assert "more than 4096 files" in refusal(folder)


def test_a_network_needs_its_configuration(folder: Path) -> None:
    (folder / "unet/config.json").unlink()
    assert refusal(folder) == "unet/config.json: missing"


def test_a_sparse_file_is_judged_by_its_header(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    with path.open("r+b") as sparse:
        sparse.truncate(1 << 40)
    assert f"the file has {1 << 40} bytes" in refusal(folder)
    path.write_bytes(SOUND)
    with (folder / "unet/x.safetensors").open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert "its header would be 0 bytes" in refusal(folder)


def known_pipelines() -> list[str]:
    stock = {row.pipeline for row in FAMILIES.values() if row.pipeline is not None}
    return sorted((set(AUTO_PIPELINES) | stock) - {"AutoPipelineForText2Image"})


@pytest.mark.parametrize("name", known_pipelines())
def test_what_a_pipeline_needs_is_what_diffusers_asks_for(name: str) -> None:
    pipeline = getattr(diffusers, name)
    needed, _ = pipeline._get_signature_keys(pipeline)
    # Without it PRX makes no picture, and only says so when it is asked for one.
    really = {"vae"} if name == "PRXPipeline" else set()
    assert NEEDED[name] == set(needed) - set(pipeline._optional_components) | really
    assert (name in READ_THEIR_CARD) == pipeline._load_connected_pipes


def test_the_classes_of_parts_are_what_their_libraries_have() -> None:
    for name in CLASSES["diffusers"]:
        found = getattr(diffusers, name)
        assert issubclass(found, diffusers.ModelMixin | diffusers.SchedulerMixin), name
    # An old name, and one that diffusers adds when it imports the pipeline.
    for name in CLASSES["transformers"] - {"CLIPFeatureExtractor", "T5GemmaEncoder"}:
        found = getattr(transformers, name)
        assert inspect.isclass(found) and not name.startswith("Auto"), name


# Classes of parts outside diffusers and transformers themselves: such folders are refused.
OTHER_PLACES = {"IFSafetyChecker", "IFWatermarker", "Ideogram4PromptEnhancerHead"} | {
    "MultilingualCLIP", "PaellaVQModel", "WuerstchenDiffNeXt", "WuerstchenPrior",
}  # fmt: skip
# What a signature says where an index says the class itself.
BASES = {"AutoProcessor", "AutoTokenizer", "Gemma2PreTrainedModel", "GemmaPreTrainedModel"} | {
    "KarrasDiffusionSchedulers", "PreTrainedModel", "NoneType", "Any",
}  # fmt: skip


@pytest.mark.parametrize("name", known_pipelines())
def test_every_part_of_a_known_pipeline_has_an_allowed_class(name: str) -> None:
    for part, types in getattr(diffusers, name)._get_signature_types().items():
        for each in types:
            library = getattr(each, "__module__", "").split(".")[0]
            class_name = getattr(each, "__name__", str(each))
            if library not in ("diffusers", "transformers") or class_name in OTHER_PLACES | BASES:
                continue
            if class_name == "StableDiffusionSafetyChecker":
                library = "stable_diffusion"
            assert is_allowed(part, library, class_name), (part, library, class_name)


def test_shards_by_a_sound_index_are_accepted(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    shards = {f"t{n}": f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    for tensor, shard in shards.items():
        (folder / "unet" / shard).write_bytes(of_shapes({tensor: (2,)}))
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 4}, "weight_map": shards})
    )
    check_folder(folder)


def test_infinity_is_accepted_since_schedulers_have_it(folder: Path) -> None:
    path = folder / "scheduler/scheduler_config.json"
    path.write_text('{"lambda_min_clipped": -Infinity}')
    check_folder(folder)


@pytest.mark.parametrize("version", [{"a": 1}, [1], 7, None])
def test_the_version_in_an_index_is_a_text(folder: Path, version: Any) -> None:
    index(folder, _diffusers_version=version)
    assert refusal(folder) == "model_index.json: _diffusers_version must be a text"


@pytest.mark.parametrize("name", ["dreamforge.json", "model_index.json", "unet/config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link in a circle"])
def test_a_configuration_that_is_no_file_is_refused_and_never_read(
    folder: Path, name: str, kind: str
) -> None:
    """A pipe waits for a writer for ever, and the device of zeros has no end."""
    path = folder / name
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(path)
    with pytest.raises(ModelUnavailable, match=r"regular file|link|JSON"):
        read_descriptor(folder) if name == DESCRIPTOR else read_json(folder, name)
    if name != DESCRIPTOR or kind not in ("pipe", "folder"):
        refusal(folder)


def test_folders_in_folders_without_end_are_refused(folder: Path) -> None:
    """Before Python 3.12 a walk through a thousand of them ends the command."""
    folder.joinpath(*["d"] * 40).mkdir(parents=True)
    assert "folders in folders" in refusal(folder)
