"""Where the parts of a pipeline are while it draws. On a CPU the hooks are the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from tests.support.families import FAMILIES, TOKENS
from tests.support.golden import CPU
from tests.support.loras import kohya, random_pairs, write

from runner.diffusion.loras import LoraFile, add_loras
from runner.diffusion.pipelines import TextToImage, place, silence_libraries
from shared.errors import ModelUnavailable
from shared.models.weights import size_of
from shared.protocol.messages import GenerateParams, Offload

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]
KINDS = {"sd": "sd", "sd3": "sd3", "flux": "flux", "pixart": "auto", "chroma": "auto"}
PARAMS = GenerateParams(prompt="a cat", width=32, height=32, steps=3, guidance=3.0)
GROUPS = CPU.model_copy(update={"offload": "group"})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    silence_libraries()


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


def drawn(placed: TextToImage) -> Any:
    picture, _ = placed.picture(PARAMS, 1, lambda *_: None)
    return np.asarray(picture)


@pytest.mark.parametrize(("family", "kind"), KINDS.items())
def test_blocks_that_take_turns_draw_the_same_bytes(family: str, kind: str) -> None:
    whole = drawn(place(load(family), kind, CPU, None))
    turns = place(load(family), kind, GROUPS, None)
    assert (drawn(turns) == whole).all()
    assert (drawn(turns) == whole).all(), "the second picture of a step"
    assert whole.std() > 1, "a picture of one colour would be the same in any case"


class OnDevice:
    """How many numbers of a module the groups of diffusers have on the device, and had at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: dict[int, int] = {}
        self.most = 0
        onload, offload = ModuleGroup.onload_, ModuleGroup.offload_

        def come(group: Any) -> None:
            onload(group)
            self.groups[id(group)] = _numbers(group)
            self.most = max(self.most, sum(self.groups.values()))

        def go(group: Any) -> None:
            self.groups.pop(id(group), None)
            offload(group)

        monkeypatch.setattr(ModuleGroup, "onload_", come)
        monkeypatch.setattr(ModuleGroup, "offload_", go)


def _numbers(group: Any) -> int:
    """A group may name a tensor twice, by itself and by its module."""
    inside = [each for m in group.modules for each in (*m.parameters(), *m.buffers())]
    tensors = {id(each): each for each in (*inside, *group.parameters, *group.buffers)}
    return sum(each.numel() for each in tensors.values())


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_no_more_of_a_transformer_is_there_than_its_size_says(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a stream there is one block; with one, the next as well, which presets count."""
    pipeline = load(family)
    tensors = pipeline.transformer.state_dict()
    size = size_of("transformer", {name: tensor.numel() for name, tensor in tensors.items()})
    there = OnDevice(monkeypatch)
    drawn(place(pipeline, family, GROUPS, None))
    assert there.groups == {}, "all of it has left the device"
    assert there.most == size.outside + size.block
    assert there.most < size.numbers


def test_text_encoders_go_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load("flux")
    place(pipeline, "flux", GROUPS, None)
    there = OnDevice(monkeypatch)
    pipeline.encode_prompt(prompt="a cat", prompt_2="a cat", device=torch.device("cpu"))
    layers = [
        sum(each.numel() for each in layer.parameters())
        for part in (pipeline.text_encoder, pipeline.text_encoder_2)
        for layer in part.modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Embedding)
    ]
    assert max(layers) <= there.most <= max(layers) + TOKENS, "CLIP's list of places is beside it"


@pytest.mark.parametrize(
    ("offload", "previews"), [("none", True), ("group", True), ("model", False)]
)
def test_a_decoder_that_stays_makes_previews(offload: Offload, previews: bool) -> None:
    placed = place(load("flux"), "flux", CPU.model_copy(update={"offload": offload}), None)
    assert not any(hasattr(each, "_diffusers_hook") for each in placed.pipeline.vae.modules())
    made = placed.preview(torch.randn(1, 4, 16), PARAMS)
    assert (made is not None) == previews


def test_a_model_whose_blocks_cannot_take_turns_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = load("flux")
    monkeypatch.setattr(type(pipeline.transformer), "_supports_group_offloading", False)
    with pytest.raises(ModelUnavailable, match="FluxTransformer2DModel cannot take turns"):
        place(pipeline, "flux", GROUPS, None)


def test_on_a_gpu_the_next_block_is_copied_while_one_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of CUDA itself there is nothing here: what diffusers is asked for."""
    pipeline = load("flux")
    asked: dict[str, Any] = {}
    transformer = type(pipeline.transformer)
    monkeypatch.setattr(
        transformer, "enable_group_offload", lambda part, **options: asked.update(blocks=options)
    )
    monkeypatch.setattr(
        "runner.diffusion.placement.apply_group_offloading",
        lambda part, **options: asked.update(layers=options),
    )
    monkeypatch.setattr(type(pipeline.vae), "to", lambda part, device: asked.update(vae=device))
    place(pipeline, "flux", GROUPS.model_copy(update={"device": "cuda"}), None)
    assert asked.pop("vae") == "cuda"
    assert {name: options["offload_type"] for name, options in asked.items()} == {
        "blocks": "block_level",
        "layers": "leaf_level",
    }
    for options in asked.values():
        assert options["onload_device"] == torch.device("cuda")
        assert options["use_stream"] and options["low_cpu_mem_usage"]


# Held in 8 bits ----------------------------------------------------------------------------------

NARROW = CPU.model_copy(update={"storage_dtype": "float8_e4m3fn"})


def stored(part: torch.nn.Module) -> set[str]:
    """The weights that are held in 8 bits."""
    return {name for name, each in part.named_parameters() if each.dtype == torch.float8_e4m3fn}


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart", "chroma"])
def test_8_bits_draw_nearly_the_same_picture(family: str) -> None:
    whole = drawn(place(load(family), KINDS[family], CPU, None)).astype(int)
    narrow = drawn(place(load(family), KINDS[family], NARROW, None)).astype(int)
    difference = np.abs(whole - narrow)
    assert 0 < difference.mean() < 6, "of 255"
    assert narrow.std() > 1


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_norms_and_what_modulates_them_keep_their_precision_and_so_do_other_parts(
    family: str,
) -> None:
    pipeline = place(load(family), family, NARROW, None).pipeline
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != "transformer":
            assert stored(part) == set(), name
    kept = {name for name, _ in pipeline.transformer.named_parameters()}
    kept -= stored(pipeline.transformer)
    assert all("norm" in n or "pos_embed" in n or n.startswith("proj_out.") for n in kept)
    assert sum("norm" in name for name in kept) > 4
    assert {p.dtype for n, p in pipeline.transformer.named_parameters() if n in kept} == {
        torch.float32
    }
    assert pipeline.transformer.dtype == torch.float32, "what pipelines cast their inputs to"


@pytest.mark.parametrize("offload", ["none", "model", "group"])
def test_8_bits_draw_the_same_bytes_each_time_and_however_they_are_offloaded(
    offload: Offload,
) -> None:
    once = drawn(place(load("flux"), "flux", NARROW, None))
    again = place(load("flux"), "flux", NARROW.model_copy(update={"offload": offload}), None)
    assert (drawn(again) == once).all()
    assert (drawn(again) == once).all(), "each use leaves the weights as they were"


def test_what_a_template_holds_is_not_written_to() -> None:
    pipeline = load("flux")
    shared = {name: each.data for name, each in pipeline.transformer.named_parameters()}
    before = {name: each.clone() for name, each in shared.items()}
    placed = place(pipeline, "flux", NARROW, None)
    assert stored(placed.pipeline.transformer)
    drawn(placed)
    assert all(torch.equal(shared[name], each) for name, each in before.items())


def test_a_lora_is_added_in_full_precision_and_cast_with_its_layer(tmp_path: Path) -> None:
    def merged() -> Any:
        pipeline = load("flux")
        pairs = random_pairs(pipeline, strength=0.1)
        file = LoraFile(label="style@1", folder=write(tmp_path / "lora", kohya(pairs)), scale=1.0)
        add_loras(pipeline, [file], lambda: None)
        return pipeline

    whole = dict(merged().transformer.named_parameters())
    narrow = place(merged(), "flux", NARROW, None).pipeline.transformer
    for name in stored(narrow):
        wanted = whole[name].to(torch.float8_e4m3fn).view(torch.uint8)
        assert torch.equal(narrow.get_parameter(name).view(torch.uint8), wanted), name
    without = drawn(place(load("flux"), "flux", NARROW, None))
    assert (drawn(place(merged(), "flux", NARROW, None)) != without).any()


def test_numbers_that_8_bits_cannot_hold_are_refused_by_name() -> None:
    pipeline = load("flux")
    layer = pipeline.transformer.transformer_blocks[0].attn.to_q
    layer.weight.data[0, 0] = 1000.0
    with pytest.raises(ModelUnavailable, match=r"transformer_blocks\.0\.attn\.to_q\.weight .*448"):
        place(pipeline, "flux", NARROW, None)


def test_a_u_net_stays_as_it_is() -> None:
    whole = drawn(place(load("sd"), "sd", CPU, None))
    assert (drawn(place(load("sd"), "sd", NARROW, None)) == whole).all()
