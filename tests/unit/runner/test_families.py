"""Every family of models, tiny and with random weights, through the one table of the runner."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from tests.support.families import FAMILIES, build, describe
from tests.support.single_files import CONVERTERS, convert

from runner.diffusion import pipelines
from runner.diffusion.pipelines import GUIDANCE_NAMES, TextToImage, load
from runner.diffusion.prompts import find_truncations, truncations_of
from runner.diffusion.schedulers import CLASSES
from shared.models.auto_pipelines import AUTO_PIPELINES
from shared.models.checkpoints import recognise
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import ModelDescriptor, Source, parameter_problems, parameters_schema
from shared.models.families import FAMILIES as ROWS
from shared.models.families import Kind
from shared.models.safetensors_header import tensor_shapes
from shared.models.verify import verify_model
from shared.protocol.messages import GenerateParams, PresetSpec

# diffusers hands torch tensors to numpy in the way of numpy 1; its T5 reads a tokenizer's old
# attribute; its Chroma imports from an old place; nothing of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]

CPU = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)
NAME_OF = {"sd": "sd1"}
KIND: dict[str, Kind] = {"sd": "sd", "sd2": "sd", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}

Model = tuple[Path, ModelDescriptor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """The folder of a family's tiny model, built once."""
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    root = tmp_path_factory.mktemp("families")
    built: dict[str, Model] = {}

    def get(family: str) -> Model:
        if family not in built:
            built[family] = root / family, build(family, root / family)
        return built[family]

    return get


def params(**changes: Any) -> GenerateParams:
    given = {"prompt": "a cat on a mat", "width": 64, "height": 48, "steps": 2, "guidance": 3.0}
    return GenerateParams.model_validate(given | changes)


def pixels(pipeline: TextToImage, asked: GenerateParams, seed: int = 1) -> Any:
    image, _ = pipeline.picture(asked, seed, lambda step, steps: None)
    assert image.size == (asked.width, asked.height)
    return np.asarray(image.convert("RGB"), dtype=np.int16)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_what_it_is_asked_for(
    family: str, model: Callable[[str], Model]
) -> None:
    folder, descriptor = model(family)
    assert descriptor.kind == KIND.get(family, "auto")
    seen: list[tuple[int, int]] = []
    pipeline = load(descriptor.kind, folder, CPU, None)
    previews: list[Any] = []

    def on_latents(latents: torch.Tensor, done: int, total: int) -> None:
        previews.append((done, total, pipeline.preview(latents, params())))

    image, blocked = pipeline.picture(
        params(), 1, lambda *step: seen.append(step), on_latents=on_latents
    )
    assert seen == [(1, 2), (2, 2)]
    ((done, total, preview),) = previews  # the last step is followed by the picture itself
    assert (done, total, preview.mode) == (1, 2, "RGB")
    assert preview.width * 3 == preview.height * 4
    assert image.size == (64, 48)
    assert not blocked
    first = np.asarray(image, dtype=np.int16)
    assert (pixels(pipeline, params()) == first).all()
    assert (pixels(pipeline, params(), seed=2) != first).any()
    assert (pixels(pipeline, params(prompt="a dog")) != first).any()


def test_a_pipeline_that_prefers_sizes_of_its_own_draws_at_the_one_asked_for(
    model: Callable[[str], Model],
) -> None:
    folder, descriptor = model("pixart")
    pipeline = load(descriptor.kind, folder, CPU, None)

    def drawn(*, binning: bool) -> Any:
        image = pipeline.pipeline(
            prompt=params().prompt,
            width=64,
            height=48,
            num_inference_steps=2,
            guidance_scale=3.0,
            use_resolution_binning=binning,
            clean_caption=False,
            generator=torch.Generator("cpu").manual_seed(1),
        ).images[0]
        return np.asarray(image, dtype=np.int16)

    assert (pixels(pipeline, params()) == drawn(binning=False)).all()
    # Else it draws at 256 pixels and resizes, which the size of the result does not tell.
    assert (pixels(pipeline, params()) != drawn(binning=True)).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_side_that_a_pipeline_would_round_is_refused_before_a_job_exists(
    family: str, model: Callable[[str], Model]
) -> None:
    folder, descriptor = model(family)
    multiple = descriptor.side_multiple
    assert multiple == {"sd": 8, "sd2": 8, "sdxl": 8, "lcm": 8}.get(family, 16)
    pipeline = load(descriptor.kind, folder, CPU, None)
    pixels(pipeline, params(width=5 * multiple, height=4 * multiple))
    for width, height in ((5 * multiple, 64), (64, 3 * multiple)):
        assert parameter_problems(descriptor, {"width": width, "height": height}) == {}
        pixels(pipeline, params(width=width, height=height))
    odd = params(width=64 + multiple // 2, height=64)
    assert parameter_problems(descriptor, {"width": odd.width}) == {
        "width": f"must be a multiple of {multiple}"
    }
    with pytest.raises(
        (ValueError, RuntimeError), match=r"divisible|pixels instead|size of tensor"
    ):
        pixels(pipeline, odd)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_kind_of_its_own_has_the_same_sides_as_auto(
    family: str, model: Callable[[str], Model], tmp_path: Path
) -> None:
    folder, descriptor = model(family)
    given = DescriptorInput(name="m", version="1", source=Source(uri="test:"), kind="auto")
    assert describe_folder(folder, given).side_multiple == descriptor.side_multiple


@pytest.mark.parametrize("family", CONVERTERS)
def test_a_single_file_draws_the_picture_of_its_folder(
    family: str, model: Callable[[str], Model], tmp_path: Path
) -> None:
    folder, descriptor = model(family)
    single = tmp_path / "single"
    convert(family, folder, single)
    assert sorted(path.name for path in single.iterdir()) == ["config", "model.safetensors"]
    found = recognise("model.safetensors", tensor_shapes(single, "model.safetensors"))
    assert (found.base_model, found.kind) == (NAME_OF.get(family, family), descriptor.kind)
    described = describe(single, family)
    assert (described.kind, described.layout) == (descriptor.kind, "single_file")
    verify_model(single, described)
    asked = params(negative_prompt="a dog")
    from_file = load(descriptor.kind, single, CPU, None, layout="single_file")
    made = pixels(from_file, asked)
    wanted = pixels(load(descriptor.kind, folder, CPU, None), asked)
    # The same weights lie elsewhere in memory, so that a sum may round otherwise.
    assert np.abs(made - wanted).mean() < 0.01
    assert np.ptp(made) > 10, "nothing can be compared in a picture of one colour"


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family, kind in KIND.items() for name in ROWS[kind].schedulers],
)
def test_every_scheduler_that_a_kind_lists_loads_and_samples(
    family: str, name: str, model: Callable[[str], Model]
) -> None:
    folder, descriptor = model(family)
    listed = parameters_schema(descriptor)["properties"]["scheduler"]["enum"]
    assert name in listed
    pipeline = load(descriptor.kind, folder, CPU, name)
    assert pipeline.scheduler_class == CLASSES[name].name
    made = pixels(pipeline, params(), seed=1)
    # A scheduler that kept something of the picture before would draw another one.
    pixels(pipeline, params(), seed=2)
    assert (pixels(pipeline, params(), seed=1) == made).all()
    assert np.ptp(made) > 10, "a picture of one colour: this scheduler has made no sense of it"


def test_a_pipeline_whose_vae_has_no_tiles_is_drawn_whole(model: Callable[[str], Model]) -> None:
    folder, descriptor = model("lcm")
    tiles = CPU.model_copy(update={"vae_tiling": True})
    assert load(descriptor.kind, folder, tiles, None).tiled
    # As Kandinsky's, whose part of that kind has another name as well.
    untiled = SimpleNamespace(vae=diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4))
    assert not pipelines.enable_tiling(untiled)
    assert not pipelines.enable_tiling(SimpleNamespace(movq=untiled.vae))


@pytest.mark.parametrize("family", ["flux", "lcm"])
def test_a_negative_prompt_without_effect_fails_and_is_not_ignored(
    family: str, model: Callable[[str], Model]
) -> None:
    folder, descriptor = model(family)
    pipeline = load(descriptor.kind, folder, CPU, None)
    pipeline.check(params())
    with pytest.raises(ValueError, match="no use for a negative_prompt"):
        pipeline.check(params(negative_prompt="a dog"))


def test_what_is_known_of_auto_is_what_diffusers_has() -> None:
    made_from_more = ("Control", "Helios")  # a second picture, a video
    edit = ("QwenImageEdit",)  # and of those that edit, what draws nothing without a picture
    found = {
        one.__name__: inspect.signature(one.__call__).parameters
        for one in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
        if not any(word in one.__name__ for word in made_from_more)
    }
    assert set(found) == {name for name, row in AUTO_PIPELINES.items() if row.from_text}
    found |= {
        one.__name__: inspect.signature(one.__call__).parameters
        for one in AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values()
        if one.__name__.startswith(edit)
    }
    assert set(found) == set(AUTO_PIPELINES)
    for name, takes in found.items():
        assert AUTO_PIPELINES[name].negative_prompt == ("negative_prompt" in takes), name
    for name, takes in found.items():
        config = SimpleNamespace(num_train_timesteps=1000, original_inference_steps=50)
        pipeline = SimpleNamespace(scheduler=SimpleNamespace(config=config))
        loaded = TextToImage(pipeline, ROWS["auto"], None)
        with patch.object(TextToImage, "parameters", takes):
            loaded.check(params())
            assert loaded.arguments(params()).keys() & set(GUIDANCE_NAMES), name


@pytest.mark.parametrize("lacking", ["guidance_scale", "num_inference_steps", "width"])
def test_what_a_pipeline_does_not_take_is_not_dropped(
    lacking: str, model: Callable[[str], Model]
) -> None:
    folder, descriptor = model("sd")
    pipeline = load(descriptor.kind, folder, CPU, None)
    takes = {name: value for name, value in pipeline.parameters.items() if name != lacking}
    with (
        patch.object(TextToImage, "parameters", takes),
        pytest.raises(ValueError, match=f"has no use for a {lacking}"),
    ):
        pipeline.check(params())


def test_guidance_goes_by_the_name_that_means_it() -> None:
    """Qwen's `guidance_scale` is for relatives; its guidance wants a prompt to keep away from."""
    qwen = TextToImage(SimpleNamespace(), ROWS["auto"], None)
    takes = inspect.signature(diffusers.QwenImagePipeline.__call__).parameters
    with patch.object(TextToImage, "parameters", takes):
        asked = qwen.arguments(params(guidance=4.0))
    assert (asked["true_cfg_scale"], asked["negative_prompt"]) == (4.0, " ")
    assert "guidance_scale" not in asked


def test_a_distilled_flux_reads_and_uses_what_it_was_trained_for(
    model: Callable[[str], Model], tmp_path: Path
) -> None:
    folder = tmp_path / "schnell"
    shutil.copytree(model("flux")[0], folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transformer = diffusers.FluxTransformer2DModel.from_config(
            model_config(folder / "transformer") | {"guidance_embeds": False}
        )
    transformer.save_pretrained(folder / "transformer")
    described = describe_folder(
        folder, DescriptorInput(name="schnell", version="1", source=Source(uri="tests"))
    )
    assert (described.defaults.steps, described.defaults.guidance) == (4, 0.0)
    assert described.unused == ("guidance",)
    pipeline = load("flux", folder, CPU, None)
    (cut,) = [
        c for c in find_truncations(pipeline, params(prompt="cats " * 150)) if c.reader == "T5"
    ]
    assert cut.limit == 256
    fits = "cats " * 150
    # What is over the bound is really not read.
    assert (
        pixels(pipeline, params(prompt=fits)) == pixels(pipeline, params(prompt=fits + "b"))
    ).all()


def model_config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def test_the_schema_says_which_kinds_take_a_negative_prompt(
    model: Callable[[str], Model],
) -> None:
    longest = {
        family: parameters_schema(model(family)[1])["properties"]["negative_prompt"]["maxLength"]
        for family in KIND
    }
    assert longest == {"sd": 4096, "sd2": 4096, "sdxl": 4096, "sd3": 4096, "flux": 0}


@pytest.mark.parametrize(
    ("family", "cuts"),
    [
        ("sd", [("CLIP", 77)]),
        ("sdxl", [("CLIP", 77)]),
        ("sd3", [("CLIP", 77), ("T5", 256)]),
        ("flux", [("CLIP", 77), ("T5", 512)]),
        ("pixart", [("T5", 300)]),
        ("chroma", [("T5", 512)]),
    ],
)
def test_words_that_a_text_encoder_does_not_read_are_named(
    family: str, cuts: list[tuple[str, int]], model: Callable[[str], Model]
) -> None:
    folder, descriptor = model(family)
    pipeline = load(descriptor.kind, folder, CPU, None)
    found = find_truncations(pipeline, params(prompt="cats " * 150 + "zebra"))
    assert [(cut.reader, cut.limit) for cut in found] == cuts
    for cut in found:
        assert cut.field == "prompt"
        assert cut.tokens > cut.limit
        assert cut.unread.endswith("zebra")
    assert find_truncations(pipeline, params()) == []


def test_the_cut_is_made_where_the_encoder_makes_it(model: Callable[[str], Model]) -> None:
    folder, descriptor = model("sd")
    pipeline = load(descriptor.kind, folder, CPU, None)
    fits = "a " * 75  # one token each, and two marks around them
    assert find_truncations(pipeline, params(prompt=fits)) == []
    (cut,) = find_truncations(pipeline, params(prompt=fits + "b c"))
    assert (cut.tokens, cut.unread) == (79, "b c")
    (cut,) = find_truncations(pipeline, params(negative_prompt=fits + "b"))
    assert (cut.field, cut.unread) == ("negative_prompt", "b")
    read = pixels(pipeline, params(prompt=fits))
    assert (pixels(pipeline, params(prompt=fits + "b c")) == read).all()


def test_the_page_lists_every_scheduler_with_its_class_and_kinds() -> None:
    page = (Path(__file__).parents[3] / "docs" / "pictures.md").read_text(encoding="utf-8")
    for name, scheduler in CLASSES.items():
        kinds = ", ".join(kind for kind, row in ROWS.items() if name in row.schedulers)
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert f"| {scheduler.name} |" in line and line.endswith(f"| {kinds} |")


class Bytes:
    """A tokenizer of one token per byte, as another model than CLIP and T5 has one."""

    def __init__(self, *, bound: int = 10**30, end: bool = False) -> None:
        self.model_max_length = bound
        self.all_special_ids = [256]
        self._end = [256] if end else []

    def __call__(self, text: str, *, truncation: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [*text.encode(), *self._end]}

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return bytes(ids).decode()


class Qwen2Tokenizer(Bytes):
    pass


class TokenizersBackend(Bytes):
    pass


def reads(limit: int | None, **components: Any) -> TextToImage:
    """A pipeline with these components whose call reads `limit` tokens by default."""

    def call(prompt: str, max_sequence_length: int | None = limit) -> None:
        """Only its parameters are looked at."""

    loaded = TextToImage(SimpleNamespace(components=components), ROWS["auto"], None)
    takes = inspect.signature(call).parameters
    patch.object(type(loaded), "parameters", takes).start()
    return loaded


@pytest.fixture
def _unpatched() -> Iterator[None]:
    yield
    patch.stopall()


@pytest.mark.usefixtures("_unpatched")
@pytest.mark.parametrize(
    ("components", "limit", "reader", "bound", "unread"),
    [
        ({"tokenizer": Qwen2Tokenizer()}, 32, "Qwen2", 32, "x" * 1464 + "zeb"),
        ({"tokenizer": Qwen2Tokenizer(bound=32)}, None, "Qwen2", 32, "x" * 1464 + "zeb"),
        ({"tokenizer": Qwen2Tokenizer(bound=8)}, 32, "Qwen2", 32, "x" * 1464 + "zeb"),
        ({"tokenizer": Qwen2Tokenizer(end=True)}, 32, "Qwen2", 32, "x" * 1465 + "zeb"),
        ({"tokenizer_2": TokenizersBackend()}, 32, "the text encoder", 32, "x" * 1464 + "zeb"),
        (
            {"processor": SimpleNamespace(tokenizer=Qwen2Tokenizer())},
            32,
            "Qwen2",
            32,
            "x" * 1464 + "zeb",
        ),
    ],
)
def test_words_that_any_tokenizer_cuts_are_named(
    components: dict[str, Any], limit: int | None, reader: str, bound: int, unread: str
) -> None:
    (cut,) = find_truncations(reads(limit, **components), params(prompt="x" * 1496 + "zeb"))
    assert (cut.reader, cut.limit, cut.unread) == (reader, bound, unread)


# The bound, as the code of the class has it.
BOUNDS_IN_CODE = {
    "HunyuanDiTPipeline": ("__call__", ["max_sequence_length=77", "max_sequence_length=256"]),
    "HunyuanDiTPAGPipeline": ("__call__", ["max_sequence_length=77", "max_sequence_length=256"]),
    "IFPipeline": ("encode_prompt", ["max_length = 77"]),
    "Kandinsky3Pipeline": ("encode_prompt", ["max_length = 128"]),
    "KandinskyCombinedPipeline": ("_encode_prompt", ["max_length=77"]),
    "NucleusMoEImagePipeline": ("__init__", ["default_max_sequence_length = 1024"]),
}


def test_bounds_that_stand_in_the_code_of_a_class_are_known() -> None:
    assert BOUNDS_IN_CODE.keys() == {name for name, row in AUTO_PIPELINES.items() if row.tokens}
    for name, (method, bounds) in BOUNDS_IN_CODE.items():
        # The combined pipeline calls another one for this.
        owner = diffusers.KandinskyPipeline if "Combined" in name else getattr(diffusers, name)
        source = inspect.getsource(getattr(owner, method))
        numbers = [int(bound.rpartition("=")[2]) for bound in bounds]
        assert all(bound in source for bound in bounds), name
        assert list(AUTO_PIPELINES[name].tokens.values()) == numbers, name


@pytest.mark.usefixtures("_unpatched")
@pytest.mark.parametrize("name", BOUNDS_IN_CODE)
def test_a_bound_in_the_code_of_a_class_is_where_a_prompt_is_cut(name: str) -> None:
    bounds = AUTO_PIPELINES[name].tokens
    loaded = reads(None, **{tokenizer: Bytes() for tokenizer in bounds})
    loaded.pipeline = type(name, (), {"components": loaded.pipeline.components})()
    found = find_truncations(loaded, params(prompt="x" * 1400 + "zeb"))
    assert [cut.limit for cut in found] == list(bounds.values())
    assert all(cut.unread.endswith("zeb") for cut in found)
    assert find_truncations(loaded, params(prompt="x" * min(bounds.values()))) == []


def test_what_a_pipeline_writes_around_a_prompt_is_taken_off_its_bound() -> None:
    """Nucleus has a processor, which these tests cannot make; it says itself what it writes."""
    around = SimpleNamespace(tokenizer=Bytes())
    pipeline = type(
        "NucleusMoEImagePipeline",
        (),
        {
            "components": {"processor": around},
            "_format_prompt": staticmethod(lambda prompt: f"draw: {prompt}, please"),
        },
    )()
    (cut,) = truncations_of(pipeline, params(prompt="x" * 1024))
    assert (cut.limit, cut.unread) == (1024 - len("draw: "), "x" * len("draw: "))


def test_an_edit_pipeline_that_reads_all_of_a_prompt_cuts_nothing() -> None:
    edit = type("QwenImageEditPlusPipeline", (), {"components": {"tokenizer": Bytes(bound=32)}})()
    assert truncations_of(edit, params(prompt="x" * 4000), 512) == []


@pytest.mark.usefixtures("_unpatched")
def test_what_has_no_bound_cuts_nothing() -> None:
    pipeline = reads(None, tokenizer=Qwen2Tokenizer(), tokenizer_2=None, unet=object())
    assert find_truncations(pipeline, params(prompt="x" * 4000)) == []
