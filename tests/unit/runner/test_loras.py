"""LoRAs on tiny models of every family that takes them: fit, strength, and nothing shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as library
import numpy as np
import pytest
import torch
from tests.support import loras
from tests.support.families import FAMILIES
from tests.support.golden import CPU
from tests.support.loras import FORMS, Tensors, random_pairs

from runner.diffusion.lora_layers import Layers
from runner.diffusion.loras import LoraFile, add_loras
from runner.diffusion.pipelines import place
from shared.errors import ModelUnavailable
from shared.models.lora_header import read_lora
from shared.protocol.messages import GenerateParams

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]
KINDS = {"sd": "sd", "sd2": "sd", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}
TINY_SIDE = 32


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower


def load(family: str) -> Any:
    """The family's tiny pipeline; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        pipeline = FAMILIES[family]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # as one that is loaded: T5 would leave numbers out at random
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def changed(family: str, *files: LoraFile) -> Any:
    pipeline = load(family)
    add_loras(pipeline, files, lambda: None)
    return pipeline


def drawn(pipeline: Any, kind: str) -> Any:
    params = GenerateParams(
        prompt="a cat", width=TINY_SIDE, height=TINY_SIDE, steps=2, guidance=3.0
    )
    picture, _ = place(pipeline, kind, CPU, None).picture(params, 1, lambda *_: None)
    return np.asarray(picture)


def lora(folder: Path, tensors: Tensors, scale: float = 1.0, **more: Any) -> LoraFile:
    loras.write(folder, tensors, **more)
    return LoraFile(label="style@1", folder=folder, scale=scale)


def weights(pipeline: Any) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor
        for part, module in pipeline.components.items()
        if isinstance(module, torch.nn.Module)
        for name, tensor in module.state_dict().items()
    }


def same(one: Any, other: Any) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize(("family", "kind"), KINDS.items())
def test_every_form_of_a_lora_gives_the_same_other_picture(
    family: str, kind: str, tmp_path: Path
) -> None:
    plain = load(family)
    pairs = random_pairs(plain, strength=0.1)
    files = [lora(tmp_path / name, form(pairs)) for name, form in FORMS.items()]
    for file in files:
        assert read_lora(file.folder).family == kind
    first, *others = (changed(family, file) for file in files)
    for other in others:
        assert same(first, other)
    pictures = [drawn(each, kind) for each in (plain, first, others[0])]
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[1] == pictures[2]).all()


def test_scale_alpha_and_two_loras_add_up(tmp_path: Path) -> None:
    pairs, more = (random_pairs(load("sd"), seed=seed) for seed in (1, 2))
    one = lora(tmp_path / "one", loras.diffusers(pairs))
    two = lora(tmp_path / "two", loras.diffusers(more), scale=-0.5)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    change = {
        key: torch.from_numpy(up @ down)
        for key, (down, up) in (("one", pairs["unet", name[:-7]]), ("two", more["unet", name[:-7]]))
    }

    def weight(pipeline: Any) -> torch.Tensor:
        found: torch.Tensor = pipeline.unet.state_dict()[name]
        return found

    before = weight(load("sd"))
    both = weight(changed("sd", one, two))
    torch.testing.assert_close(both, before + change["one"] - 0.5 * change["two"])
    # Alpha is divided by the rank, which is 2.
    halved = lora(tmp_path / "halved", loras.kohya(pairs, alpha=1.0))
    torch.testing.assert_close(weight(changed("sd", halved)), before + 0.5 * change["one"])
    settings = {"lora_adapter_metadata": '{"unet.lora_alpha": 4, "unet.use_rslora": true}'}
    rooted = lora(tmp_path / "rooted", loras.diffusers(pairs), metadata=settings)
    torch.testing.assert_close(weight(changed("sd", rooted)), before + 4 / 2**0.5 * change["one"])


def test_scale_zero_changes_no_bit_and_is_compared_all_the_same(tmp_path: Path) -> None:
    pairs = random_pairs(load("sd"))
    assert same(changed("sd", lora(tmp_path / "a", loras.kohya(pairs), scale=0.0)), load("sd"))
    other = {("unet", "mid_block.absent.to_q"): pairs["unet", "conv_in"]}
    foreign = lora(tmp_path / "b", loras.kohya({**pairs, **other}), scale=0.0)
    with pytest.raises(ModelUnavailable, match="does not have"):
        changed("sd", foreign)


def test_weights_that_others_share_are_not_written_to(tmp_path: Path) -> None:
    pipeline = load("sd")
    shared = weights(pipeline)  # the same memory, as a template's forks have it
    copies = {name: tensor.clone() for name, tensor in shared.items()}
    add_loras(pipeline, [lora(tmp_path, loras.kohya(random_pairs(pipeline)))], lambda: None)
    assert all(torch.equal(shared[name], copy) for name, copy in copies.items())
    assert not same(pipeline, load("sd"))


@pytest.mark.parametrize(
    ("part", "name", "change", "why"),
    [
        ("unet", "conv_in", lambda d, u: (d[:, :2], u), "of shape"),
        ("unet", "mid_block.attentions.0.proj_in", lambda d, u: (d, u[:-1]), "of shape"),
        ("text_encoder", "absent.layer", lambda d, u: (d, u), "does not have"),
        ("unet", "conv_in", lambda d, u: (d * np.nan, u), "NaN or infinite"),
        ("unet", "conv_in", lambda d, u: (d * 1e30, u * 1e30), "NaN or infinite"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_whole(
    part: str,
    name: str,
    change: Callable[[Any, Any], tuple[Any, Any]],
    why: str,
    tmp_path: Path,
) -> None:
    pairs = dict(random_pairs(load("sd")))
    halves = pairs.get((part, name), pairs["unet", "conv_in"])
    with np.errstate(over="ignore"):
        pairs[part, name] = change(*halves)
    with pytest.raises(ModelUnavailable, match=why) as refused:
        changed("sd", lora(tmp_path, loras.kohya(pairs)))
    assert "style@1" in refused.value.message


def test_a_lora_of_another_width_fits_no_layer(tmp_path: Path) -> None:
    wide = lora(tmp_path, loras.kohya(random_pairs(load("sd2"))))
    with pytest.raises(ModelUnavailable, match=r"of shape .*, and this model's has"):
        changed("sd", wide)


# Names of the original code, which diffusers translates as well ----------------------------------


def test_names_of_sdxl_s_original_code_are_those_that_diffusers_finds() -> None:
    u_net = library.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16),
        norm_num_groups=4,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 8,
        transformer_layers_per_block=(1, 2, 2),
    )
    names = {name.replace(".", "_"): name for name, _ in u_net.named_modules()}
    layers = Layers(_Parts(unet=u_net))
    original = [
        "input_blocks_0_0",
        "input_blocks_3_0_op",
        "input_blocks_4_0_in_layers_2",
        "input_blocks_4_0_emb_layers_1",
        "input_blocks_4_0_skip_connection",
        "input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        "input_blocks_8_1_proj_in",
        "middle_block_0_out_layers_3",
        "middle_block_1_transformer_blocks_0_ff_net_0_proj",
        "output_blocks_0_1_proj_out",
        "output_blocks_2_2_conv",
        "output_blocks_5_1_transformer_blocks_0_attn1_to_out_0",
        "label_emb_0_0",
        "time_embed_2",
        "out_2",
    ]
    for name in original:
        (found,) = layers.find("denoiser", name)
        expected = names[_by_diffusers(name, u_net.config)]
        assert found is u_net.get_submodule(expected), name


def _by_diffusers(layer: str, config: Any) -> str:
    """The layer that diffusers loads such a pair into, with `_` for every `.`."""
    half = np.ones((1, 1), np.float32)
    state = {
        f"lora_unet_{layer}.{each}.weight": torch.from_numpy(half)
        for each in ("lora_down", "lora_up")
    }
    converted, _ = library.StableDiffusionXLPipeline.lora_state_dict(state, unet_config=config)
    (name, *_) = converted
    name = str(name).removeprefix("unet.").partition(".lora")[0].replace(".processor.", ".")
    name = name.partition("_lora")[0].replace(".", "_")
    return name + "_0" if name.endswith("to_out") else name


def test_names_of_flux_s_original_code_change_what_diffusers_changes(tmp_path: Path) -> None:
    transformer = load("flux").transformer
    width, wide = transformer.config.num_attention_heads * 16, 4
    outputs = {
        "double_blocks_0_img_attn_qkv": 3 * width,
        "double_blocks_0_txt_attn_qkv": 3 * width,
        "double_blocks_0_img_attn_proj": width,
        "double_blocks_0_txt_attn_proj": width,
        "double_blocks_0_img_mlp_0": wide * width,
        "double_blocks_0_txt_mlp_0": wide * width,
        "double_blocks_0_img_mod_lin": 6 * width,
        "double_blocks_0_txt_mod_lin": 6 * width,
        "single_blocks_0_modulation_lin": 3 * width,
    }
    numbers = np.random.default_rng(3)
    tensors: Tensors = {}
    for layer, out in outputs.items():
        halves = {"lora_down": (2, width), "lora_up": (out, 2)}
        for half, shape in halves.items():
            value = numbers.standard_normal(shape).astype(np.float32)
            tensors[f"lora_unet_{layer}.{half}.weight"] = value
        tensors[f"lora_unet_{layer}.alpha"] = np.array(2, np.float32)
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    converted = library.FluxPipeline.lora_state_dict(state)
    translated = {name: np.ascontiguousarray(value) for name, value in converted.items()}
    ours, theirs = (
        changed("flux", lora(tmp_path / name, each))
        for name, each in (("ours", tensors), ("theirs", translated))
    )
    assert not same(ours, load("flux"))
    first, second = weights(ours), weights(theirs)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], msg=name)


def test_the_rows_of_flux_s_first_single_layer_are_divided_by_what_each_layer_has(
    tmp_path: Path,
) -> None:
    """diffusers translates it too, but for the width of the real model alone."""
    before = weights(load("flux"))
    down, up = np.eye(1, 32, dtype=np.float32), np.arange(7 * 32, dtype=np.float32)[:, None]
    name = "lora_unet_single_blocks_0_linear1"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    after = weights(changed("flux", lora(tmp_path, tensors)))
    start = 0
    for layer, rows in {"attn.to_q": 32, "attn.to_k": 32, "attn.to_v": 32, "proj_mlp": 128}.items():
        key = f"transformer.single_transformer_blocks.0.{layer}.weight"
        added = (after[key] - before[key])[:, 0]
        torch.testing.assert_close(added, torch.arange(start, start + rows, dtype=torch.float32))
        start += rows


class _Parts:
    """A pipeline of these parts."""

    def __init__(self, **parts: Any) -> None:
        self.components = parts


def test_a_second_text_encoder_of_flux_may_be_called_the_third() -> None:
    pipeline = load("flux")
    layer = "encoder_block_0_layer_0_SelfAttention_q"
    assert Layers(pipeline).find("text_encoder_3", layer) == Layers(pipeline).find(
        "text_encoder_2", layer
    )


def test_the_first_word_of_a_text_encoder_s_layers_may_be_missing_or_more() -> None:
    pipeline = load("sd")
    layer = "encoder_layers_0_self_attn_q_proj"
    found = Layers(pipeline).find("text_encoder", f"text_model_{layer}")
    assert len(found) == 1
    assert Layers(pipeline).find("text_encoder", layer) == found
