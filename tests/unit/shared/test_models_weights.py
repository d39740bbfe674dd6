"""Which weights of a folder are loaded, by their names, and how much its parts hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.headers import Sizes, of_shapes

from shared.errors import ModelUnavailable
from shared.models.descriptor import PartSize
from shared.models.weights import part_sizes, variant_of

UNET, TEXT = "unet/diffusion_pytorch_model", "text_encoder/model"


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        ([f"{UNET}.safetensors", f"{TEXT}.safetensors"], None),
        ([f"{UNET}.fp16.safetensors", f"{TEXT}.fp16.safetensors"], "fp16"),
        ([f"{UNET}.fp16.safetensors", f"{TEXT}.safetensors"], "fp16"),
        ([f"{UNET}.fp16.safetensors", f"{UNET}.safetensors", f"{TEXT}.safetensors"], None),
        ([f"{UNET}.{v}.safetensors" for v in ("fp16", "bf16")], "bf16"),
        ([f"{UNET}.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)], "fp16"),
        ([f"{TEXT}-00001-of-00002.fp16.safetensors"], "fp16"),
        ([f"{TEXT}-00001-of-00002.safetensors"], None),
        (["some-checkpoint.fp16.safetensors"], None),
    ],
)  # fmt: skip
def test_a_folder_is_asked_for_the_variant_that_it_has(
    files: list[str], variant: str | None
) -> None:
    assert variant_of(files) == variant


def test_parts_without_a_common_variant_cannot_be_loaded() -> None:
    with pytest.raises(ModelUnavailable, match="unet/ fp16, text_encoder/ bf16"):
        variant_of([f"{UNET}.fp16.safetensors", f"{TEXT}.bf16.safetensors"])


def folder_of(root: Path, files: dict[str, Sizes]) -> list[str]:
    for name, shapes in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(of_shapes(shapes))
    return sorted(files)


def test_the_parts_of_a_folder_are_counted_once_whatever_else_lies_there(tmp_path: Path) -> None:
    big: Sizes = {"a.weight": (2, 3), "b.weight": (4,)}
    files = folder_of(
        tmp_path,
        {
            f"{UNET}-00001-of-00002.safetensors": big,
            f"{UNET}-00002-of-00002.safetensors": {"c.weight": (5, 5)},
            f"{UNET}.fp16.safetensors": big,
            f"{TEXT}.safetensors": {"x": (7,)},
            "vae_1_0/model.safetensors": big,  # no part of the pipeline
            "whole.safetensors": big,
        },
    )
    assert part_sizes(tmp_path, files, "diffusers", ["unet", "text_encoder", "scheduler"]) == {
        "unet": PartSize(numbers=35, largest=25),
        "text_encoder": PartSize(numbers=7, largest=7),
    }


def test_the_parts_of_a_single_file_go_by_the_names_of_its_tensors(tmp_path: Path) -> None:
    files = folder_of(
        tmp_path,
        {
            "whole.safetensors": {
                "model.diffusion_model.a": (10,),
                "model_ema.a": (10,),
                "first_stage_model.a": (2,),
                "text_encoders.clip_l.a": (3,),
                "text_encoders.t5xxl.a": (4,),
                "alphas": (1,),
            },
            "config/vae/diffusion_pytorch_model.safetensors": {"a": (9,)},
        },
    )
    found = part_sizes(tmp_path, files, "single_file", ["vae", "unet"])
    assert {name: size.numbers for name, size in found.items()} == {
        "model.diffusion_model": 10,
        "first_stage_model": 2,
        "text_encoders.clip_l": 3,
        "text_encoders.t5xxl": 4,
        "model": 1,
        "vae": 9,
    }


BLOCKS: Sizes = {
    "x_embedder.weight": (2, 3),
    "blocks.0.a.weight": (4, 5),
    "blocks.0.b.weight": (5,),
    "blocks.1.a.weight": (4, 5),
    "more.0.b.weight": (7,),
}


@pytest.mark.parametrize("part", ["transformer", "transformer_2"])
def test_the_blocks_of_a_transformer_are_counted(part: str, tmp_path: Path) -> None:
    files = folder_of(tmp_path, {f"{part}/diffusion_pytorch_model.safetensors": BLOCKS})
    found = part_sizes(tmp_path, files, "diffusers", [part])
    assert found == {part: PartSize(numbers=58, largest=20, block=25, outside=6, precise=6)}


@pytest.mark.parametrize("part", ["unet", "text_encoder", "transformers"])
def test_other_parts_have_no_blocks_that_take_turns(part: str, tmp_path: Path) -> None:
    files = folder_of(tmp_path, {f"{part}/model.safetensors": BLOCKS})
    found = part_sizes(tmp_path, files, "diffusers", [part])
    assert found == {part: PartSize(numbers=58, largest=20)}


@pytest.mark.parametrize(
    ("prefix", "part"), [("", "model"), ("model.diffusion_model.", "model.diffusion_model")]
)
def test_a_single_file_has_the_blocks_of_the_original_code(
    prefix: str, part: str, tmp_path: Path
) -> None:
    shapes = {
        "double_blocks.0.img_attn.qkv.weight": (4, 5),
        "double_blocks.1.img_attn.qkv.weight": (4, 6),
        "single_blocks.0.linear1.weight": (2,),
        "img_in.weight": (3,),
    }
    files = folder_of(tmp_path, {"flux.safetensors": {prefix + n: s for n, s in shapes.items()}})
    found = part_sizes(tmp_path, files, "single_file", [])
    assert found == {part: PartSize(numbers=49, largest=24, block=24, outside=3, precise=3)}


def test_a_u_net_of_a_single_file_has_none(tmp_path: Path) -> None:
    unet: Sizes = {"model.diffusion_model.input_blocks.0.0.weight": (4, 5)}
    files = folder_of(tmp_path, {"sd.safetensors": unet})
    found = part_sizes(tmp_path, files, "single_file", [])
    assert found == {"model.diffusion_model": PartSize(numbers=20, largest=20)}


def test_weights_that_diffusers_would_not_find_are_refused(tmp_path: Path) -> None:
    files = folder_of(tmp_path, {"unet/my_unet.safetensors": {"a": (1,)}})
    with pytest.raises(ModelUnavailable, match=r"unet/my_unet.safetensors: not a name that"):
        part_sizes(tmp_path, files, "diffusers", ["unet"])
