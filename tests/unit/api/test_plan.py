"""From request to job: defaults, limits of model and preset, what no worker could hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.model_rows import model_row

from api.admission.capacity import check_capacity
from api.admission.pictures import DECODED_BYTES, DECODING_BYTES, NO_PICTURES, Pictures
from api.admission.plan import Caller, plan_job
from api.admission.resolve import resolve
from api.schemas.requests import CreateJob
from shared.db.inputs import Input
from shared.db.insert_job import NewJob, NewStep
from shared.db.models import Model
from shared.db.workers import Slot, Worker
from shared.errors import DreamForgeError, InsufficientVram, InvalidInput, ModelUnavailable
from shared.models.descriptor import (
    Defaults,
    Limits,
    ModelDescriptor,
    ModelFile,
    Range,
    Source,
    checkpoint_hash,
    parameters_schema,
)
from shared.models.families import Kind
from shared.presets import preset
from shared.settings import Settings
from shared.step_store import PinnedInput
from shared.users import Serves

PRESETS = Path(__file__).parents[3] / "src" / "shared" / "presets_data"
MODEL_ID, UPSCALER_ID = uuid4(), uuid4()
CALLER = Caller(
    user="default", correlation_id="c", client_request_id="mine", traceparent=None, key=None
)


def settings(**changes: Any) -> Settings:
    return Settings.model_construct(**({"max_timeout_s": 3600.0} | changes))


def model(**changes: Any) -> Model:
    files = (ModelFile(path="unet/x.safetensors", size_bytes=1, sha256="0" * 64),)
    descriptor = ModelDescriptor(
        name="tiny",
        version="1",
        kind="sd",
        source=Source(uri="local"),
        files=files,
        checkpoint_sha256=checkpoint_hash(files),
        defaults=Defaults(width=64, height=48, steps=4, guidance=7, scheduler="ddim"),
        limits=Limits(width=Range(min=32, max=128), height=Range(min=32, max=128)),
    )
    facts: dict[str, Any] = {
        "id": MODEL_ID,
        "name": "tiny",
        "checkpoint_sha256": descriptor.checkpoint_sha256,
        "descriptor": descriptor.model_dump(mode="json"),
        "parameters_schema": parameters_schema(descriptor),
    }
    return model_row(**(facts | changes))


MODEL = model()


def plan(
    chosen: Model | None = None,
    limits: Settings | None = None,
    upscaler: Model | None = None,
    pictures: Pictures = NO_PICTURES,
    **body: Any,
) -> NewJob:
    """The job of a request in a registry with these models and no live worker."""
    generator, limits = chosen or model(), limits or settings()
    facts = {"type": "generate", "prompt": "x", "model_id": str(generator.id)}
    request = CreateJob.model_validate(facts | body)
    registry = [each for each in (generator, upscaler) if each is not None]
    return plan_job(request, resolve(request, registry, [], limits), pictures, CALLER, limits)


def refusal_with(limits: Settings, chosen: Model, **body: Any) -> DreamForgeError:
    with pytest.raises(DreamForgeError) as caught:
        plan(chosen, limits, **body)
    return caught.value


def refusal(chosen: Model | None = None, **body: Any) -> DreamForgeError:
    with pytest.raises(DreamForgeError) as caught:
        plan(chosen, **body)
    return caught.value


def test_what_is_not_given_comes_from_the_model() -> None:
    (step,) = plan().steps
    assert (step.params["width"], step.params["height"], step.params["steps"]) == (64, 48, 4)
    assert (step.params["guidance"], step.params["scheduler"]) == (7.0, "ddim")
    assert step.params["seed"] is None


def test_what_is_given_is_kept() -> None:
    (step,) = plan(width=128, seed=5, guidance=1, scheduler="euler", count=3).steps
    assert (step.params["width"], step.params["seed"], step.params["count"]) == (128, 5, 3)
    assert (step.params["guidance"], step.params["scheduler"]) == (1.0, "euler")


def test_everything_that_the_step_needs_is_pinned() -> None:
    chosen = model()
    job = plan(chosen)
    (step,) = job.steps
    assert (step.device, step.preset, step.queue) == (
        "cpu",
        preset("cpu").budget_for("sd", 64 * 48).pinned,
        "default",
    )
    assert step.vram_bytes == preset("cpu").budget_for("sd", 64 * 48).vram_bytes
    assert (step.model_id, step.checkpoint_sha256) == (chosen.id, chosen.checkpoint_sha256)
    assert (job.correlation_id, job.client_request_id) == ("c", "mine")
    assert job.request == {"type": "generate", "prompt": "x", "model_id": str(MODEL_ID)}


def test_the_models_preset_is_used_unless_the_request_names_one() -> None:
    chosen = model()
    chosen.descriptor["default_preset"] = "gpu-24gb"
    assert plan(chosen).steps[0].preset["name"] == "gpu-24gb"
    assert plan(chosen, preset="cpu").steps[0].preset["name"] == "cpu"


@pytest.mark.parametrize(
    ("body", "field", "rule", "limit"),
    [
        ({"width": 256}, "width", "maximum", 128),
        ({"height": 16}, "height", "minimum", 32),
        ({"scheduler": "flow_match_euler"}, "scheduler", "enum", None),
    ],
)
def test_the_models_own_limits_are_checked_before_the_job_exists(
    body: dict[str, Any], field: str, rule: str, limit: Any
) -> None:
    error = refusal(**body)
    assert isinstance(error, InvalidInput)
    (finding,) = error.details["errors"]
    assert finding["field"] == field
    assert limit is None or finding[rule] == limit
    assert "tiny@1" in error.message


def test_a_negative_prompt_that_has_no_effect_is_refused_and_not_ignored() -> None:
    flux = model(kind="flux")
    flux.parameters_schema["properties"]["negative_prompt"]["maxLength"] = 0
    error = refusal(flux, negative_prompt="blurry")
    assert error.message.startswith("negative_prompt: this model has no use for it; leave it out")
    flux.parameters_schema["properties"]["guidance"]["maximum"] = 0.0
    error = refusal(flux, guidance=3.5)
    assert error.message.startswith("guidance: this model has no use for it; leave it out")
    flux.parameters_schema["properties"]["guidance"]["default"] = 0.0
    assert plan(flux, negative_prompt="").steps[0].params["negative_prompt"] == ""
    assert plan(negative_prompt="blurry").steps[0].params["negative_prompt"] == "blurry"


def test_a_model_without_a_default_makes_the_request_say() -> None:
    assert "width" in refusal(model(parameters_schema={"type": "object"})).message


def test_a_preset_bounds_size_and_steps() -> None:
    wide = model(parameters_schema={})
    body = {"width": 4096, "height": 4096, "steps": 200, "guidance": 1}
    error = refusal(wide, **body)
    assert error.details["maximum_pixels"] == preset("cpu").max_pixels


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    known = "cpu, gpu-8gb, gpu-12gb, gpu-16gb, gpu-16gb-fp8, gpu-24gb"
    assert known in refusal(preset="nope").message


def test_the_timeout_is_the_presets_within_the_settings_bound() -> None:
    assert plan().steps[0].timeout_s == preset("cpu").timeout_s
    assert plan(limits=settings(max_timeout_s=10.0)).steps[0].timeout_s == 10.0
    assert plan(timeout_s=1.5).steps[0].timeout_s == 1.5
    assert refusal(timeout_s=3601).details["maximum"] == 3600.0


def test_a_model_without_the_capability_is_refused_with_those_it_has() -> None:
    error = refusal(model(capabilities=["upscale"]))
    assert error.message == "model_id: tiny@1 cannot generate; it can: upscale"
    (finding,) = error.details.pop("errors")
    assert error.details == {"field": "model_id", "capabilities": ["upscale"]}
    assert error.message == f"model_id: {finding['message']}"
    assert error.details.items() <= finding.items()


def test_a_size_over_the_preset_is_refused_with_what_it_allows() -> None:
    rules = model().parameters_schema
    for side in ("width", "height"):
        rules["properties"][side]["maximum"] = 4096
    error = refusal(model(parameters_schema=rules), width=1024, height=1032)
    assert error.message == (
        "width, height: 1056768 pixels are more than preset 'cpu' allows, 1048576"
    )
    assert plan(model(parameters_schema=rules), width=1024, height=1024)


def test_what_a_step_needs_is_pinned_for_its_own_size() -> None:
    small, large = (plan(width=side, height=side).steps[0].vram_bytes for side in (64, 128))
    per_pixel = preset("cpu").kinds["sd"].bytes_per_pixel
    assert large - small == per_pixel * (128 * 128 - 64 * 64)


def test_a_large_checkpoint_needs_more_than_its_kind_usually_does() -> None:
    """Stable Diffusion 1.5 in full on the CPU, whose figure is for small models."""
    full = model()
    full.descriptor["parts"] = {"unet": {"numbers": 1_070_000_000, "largest": 1}}
    vram_bytes = plan(full, width=64, height=64).steps[0].vram_bytes
    cpu = preset("cpu")
    assert vram_bytes == cpu.overhead_bytes + 4 * 1_070_000_000 + 5000 * 64 * 64
    assert plan(width=64, height=64).steps[0].vram_bytes < 2 * 10**9
    enlarging_full = upscaler("sd_upscale", 4)
    enlarging_full.descriptor["parts"] = {"unet": {"numbers": 10**10, "largest": 1}}
    assert enlarging(enlarging_full, "diffusion").vram_bytes > 4 * 10**10


def test_a_kind_that_the_preset_does_not_know_is_refused_with_those_it_does(tmp_path: Path) -> None:
    text = (PRESETS / "cpu.toml").read_text().replace('"cpu"', '"mine"', 1)
    (tmp_path / "mine.toml").write_text(text.partition("\nsdxl = ")[0])
    error = refusal_with(settings(presets_dir=tmp_path), model(kind="flux"), preset="mine")
    assert "no memory figure for models of kind 'flux'; it knows sd" in error.message


def test_the_quality_of_jpg_files_is_the_settings_for_both_steps() -> None:
    chain = {"upscale": {"scale": 2, "impl": "resample"}}
    steps = plan(limits=settings(jpeg_quality=80), format="jpg", chain=chain).steps
    assert [step.params["jpeg_quality"] for step in steps] == [80, 80]
    assert plan().steps[0].params["jpeg_quality"] == 95


def test_a_disabled_model_is_unavailable() -> None:
    assert isinstance(refusal(model(enabled=False)), ModelUnavailable)


def resample(scale: int = 2) -> dict[str, Any]:
    return {"upscale": {"scale": scale, "impl": "resample"}}


def test_a_chain_has_a_second_step_with_everything_pinned_but_no_model() -> None:
    first, second = plan(
        chain=resample(4), count=3, format="jpg", embed_metadata=False, timeout_s=7
    ).steps
    assert (second.name, second.type) == ("upscale", "upscale")
    assert (second.model_id, second.checkpoint_sha256) == (None, None)
    for pinned in ("queue", "device", "timeout_s"):
        assert getattr(second, pinned) == getattr(first, pinned)
    assert second.preset == preset("cpu").budget_for(None, 0).pinned
    assert second.params == {
        "impl": "resample",
        "scale": 4,
        "count": 3,
        "format": "jpg",
        "embed_metadata": False,
        "jpeg_quality": 95,
        "webp_quality": None,
    }


def test_resampling_needs_memory_of_the_host_and_none_of_a_gpu() -> None:
    small, large = (plan(chain=resample(scale)).steps[1].vram_bytes for scale in (2, 4))
    assert 0 < small < large
    assert plan(chain=resample(), preset="gpu-24gb").steps[1].vram_bytes == 0


def test_no_chain_is_one_step() -> None:
    assert len(plan(chain={}).steps) == len(plan().steps) == 1


def upscaler(kind: Kind, scale: int, sides: tuple[int, int] | None = None) -> Model:
    low, high = sides or (64 if kind == "sd_latent_upscale" else 16, 128)
    facts: dict[str, Any] = model().descriptor | {
        "kind": kind,
        "layout": "network" if kind == "esrgan" else "diffusers",
        "scale": scale,
        "capabilities": ["upscale"],
        "defaults": {"width": 64, "height": 64, "steps": 20, "guidance": 0},
        "limits": {axis: {"min": low, "max": high} for axis in ("width", "height")},
    }
    descriptor = ModelDescriptor.model_validate(facts)
    return model(
        id=UPSCALER_ID,
        kind=kind,
        descriptor=descriptor.model_dump(mode="json"),
        parameters_schema=parameters_schema(descriptor),
        capabilities=["upscale"],
    )


def enlarging(second: Model, impl: str, **body: Any) -> NewStep:
    chain = {"upscale": {"scale": 2, "impl": impl}}
    return plan(upscaler=second, chain=chain, **body).steps[1]


def test_an_upscaler_is_pinned_with_its_checkpoint_and_its_own_scale() -> None:
    chosen = upscaler("esrgan", 4)
    step = enlarging(chosen, "gan")
    assert (step.model_id, step.checkpoint_sha256) == (chosen.id, chosen.checkpoint_sha256)
    assert step.preset == preset("cpu").budget_for("esrgan", 0).pinned
    # Its own picture, on the way, is larger than the result.
    assert step.vram_bytes == preset("cpu").budget_for("esrgan", 64 * 48 * 16).vram_bytes
    assert (step.params["scale"], step.params["native_scale"]) == (2, 4)


def test_a_diffusion_upscaler_draws_what_the_prompt_says() -> None:
    step = enlarging(upscaler("sd_upscale", 4), "diffusion", negative_prompt="blurry")
    drawn = {name: step.params[name] for name in ("prompt", "negative_prompt", "steps", "guidance")}
    assert drawn == {"prompt": "x", "negative_prompt": "blurry", "steps": 20, "guidance": 0.0}


def test_a_picture_that_an_upscaler_cannot_take_is_refused_with_what_it_can() -> None:
    with pytest.raises(InvalidInput, match="height: tiny takes pictures of 64 to 128 pixels in"):
        enlarging(upscaler("sd_latent_upscale", 2), "diffusion")


def test_an_upscaler_does_not_generate() -> None:
    error = refusal(upscaler("esrgan", 4))
    assert "cannot generate" in error.message and error.details["field"] == "model_id"


def wide() -> Model:
    row = model()
    for side in ("width", "height"):
        row.parameters_schema["properties"][side]["maximum"] = 4096
    return row


def test_more_pixels_than_the_preset_allows_are_refused_with_its_limit() -> None:
    limit = preset("gpu-24gb").max_output_pixels
    assert len(plan(wide(), width=1024, height=1024, chain=resample(4)).steps) == 2
    error = refusal(wide(), width=1040, height=1024, chain=resample(4), preset="gpu-24gb")
    (finding,) = error.details.pop("errors")
    assert error.details == {"field": "chain.upscale.scale", "maximum_pixels": limit}
    assert error.details.items() <= finding.items()
    assert "4160x4096 are" in error.message and str(limit) in error.message


@pytest.mark.parametrize("name", ["gpu-8gb", "gpu-12gb", "gpu-16gb", "gpu-24gb"])
@pytest.mark.parametrize("size", [(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (640, 1536)])
def test_a_gan_enlarges_every_usual_size_of_sdxl_on_every_card(
    name: str, size: tuple[int, int]
) -> None:
    width, height = size
    for scale in (2, 4):
        chain = {"upscale": {"scale": scale, "impl": "gan"}}
        body: dict[str, Any] = {"preset": name, "width": width, "height": height, "chain": chain}
        gan = upscaler("esrgan", 4, sides=(16, 4096))
        step = plan(wide(), upscaler=gan, **body).steps[1]
        assert step.vram_bytes <= preset(name).memory_bytes


def test_an_upscaler_that_would_make_too_much_on_the_way_is_refused_by_name() -> None:
    chain = {"upscale": {"scale": 2, "impl": "diffusion"}}
    body: dict[str, Any] = {"width": 512, "height": 512, "chain": chain}
    drawing = upscaler("sd_upscale", 4, sides=(32, 512))
    limit = preset("gpu-8gb").budget_for("sd_upscale", 0).max_pixels
    with pytest.raises(InvalidInput, match="2048x2048 by tiny are 4194304 pixels") as caught:
        plan(wide(), upscaler=drawing, preset="gpu-8gb", **body)
    assert caught.value.details["maximum_pixels"] == limit
    second = plan(wide(), upscaler=drawing, preset="gpu-12gb", **body).steps[1]
    assert second.preset["max_pixels"] == preset("gpu-12gb").budget_for("sd_upscale", 0).max_pixels


def worker(
    capacity_bytes: int,
    device: str = "cpu",
    queue: str = "default",
    models: Mapping[UUID, str] | None = None,
) -> Worker:
    """A worker with a verified copy of `MODEL`, or of `models`."""
    slot = Slot(
        id="0",
        device=device,
        device_class=device,
        capacity_bytes=capacity_bytes,
        state="held",
    )
    has = {MODEL.id: MODEL.checkpoint_sha256} if models is None else models
    return Worker(id=uuid4(), host="h", version="1", queues=[queue], slots=[slot], models=has)


def test_without_any_worker_a_job_waits() -> None:
    check_capacity(plan(), [])


def test_workers_that_are_kept_for_others_do_not_count() -> None:
    need = plan().steps[0].vram_bytes
    for_ada = Serves(users=("ada",))
    check_capacity(plan(), [replace(worker(need - 1), serves=for_ada)])  # it waits
    with pytest.raises(InsufficientVram):
        check_capacity(plan(), [worker(need - 1), replace(worker(need), serves=for_ada)])
    check_capacity(plan(), [replace(worker(need), serves=Serves(users=(plan().user,)))])


def test_one_slot_that_is_large_enough_is_enough_even_while_it_is_busy() -> None:
    need = plan().steps[0].vram_bytes
    check_capacity(plan(), [worker(need - 1), worker(need)])


@pytest.mark.parametrize(
    ("live", "largest"),
    [
        ([worker(5), worker(9)], 9),
        ([worker(1 << 50, device="cuda")], 0),
        ([worker(1 << 50, queue="other")], 0),
    ],
)
def test_what_no_live_worker_could_hold_is_refused_with_numbers(
    live: list[Worker], largest: int
) -> None:
    job = plan()
    with pytest.raises(InsufficientVram) as caught:
        check_capacity(job, live)
    assert caught.value.details["required_bytes"] == job.steps[0].vram_bytes
    assert caught.value.details["largest_slot_bytes"] == largest
    assert caught.value.details["live_workers"] == len(live)
    assert ("has its model serves one" in caught.value.message) is (largest == 0)


HUGE = 1 << 50


@pytest.mark.parametrize("models", [{}, {uuid4(): "0" * 64}, {MODEL.id: "0" * 64}])
def test_a_model_that_no_live_worker_has_is_refused_with_what_to_do(
    models: dict[UUID, str],
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        check_capacity(plan(), [worker(HUGE, models=models), worker(HUGE, models=models)])
    assert "dreamforge model import" in caught.value.message
    assert caught.value.details == {
        "step": "generate",
        "model_id": str(MODEL.id),
        "live_workers": 2,
    }


def test_the_model_of_the_second_step_must_be_somewhere_too() -> None:
    job = plan()
    second = replace(job.steps[0], name="upscale", model_id=uuid4())
    with pytest.raises(ModelUnavailable) as caught:
        check_capacity(replace(job, steps=[*job.steps, second]), [worker(HUGE)])
    assert caught.value.details["step"] == "upscale"


def test_the_model_and_the_memory_must_be_on_the_same_worker() -> None:
    check_capacity(plan(), [worker(HUGE), worker(9, models={})])
    with pytest.raises(InsufficientVram) as caught:
        check_capacity(plan(), [worker(HUGE, models={}), worker(9)])
    assert caught.value.details["largest_slot_bytes"] == 9


def test_a_second_step_without_a_model_runs_anywhere() -> None:
    check_capacity(plan(chain=resample(2)), [worker(HUGE)])


def test_a_refusal_says_what_each_slot_has_free_and_who_holds_the_rest() -> None:
    small = worker(9)
    slot = replace(small.slots[0], free_bytes=2, holders={"77": 7})
    with pytest.raises(InsufficientVram) as caught:
        check_capacity(plan(), [replace(small, slots=[slot])])
    assert caught.value.details["slots"] == [
        {"class": "cpu", "state": "held", "total_bytes": 9, "free_bytes": 2, "holders": {"77": 7}}
    ]


def test_an_operator_can_correct_an_estimate_and_the_step_records_it() -> None:
    usual = plan(chain=resample(2)).steps
    halved = plan(limits=settings(vram_factor=0.5), chain=resample(2)).steps
    assert [step.vram_bytes for step in halved] == [-(-step.vram_bytes // 2) for step in usual]
    assert [step.preset["vram_factor"] for step in halved] == [0.5, 0.5]
    assert all("vram_factor" not in step.preset for step in usual)


# Pictures to start from ---------------------------------------------------------------------------

IMAGE, MASK = str(uuid4()), str(uuid4())


def stored(id: str, width: int = 96, height: int = 64, **changes: Any) -> Input:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    facts: dict[str, Any] = {
        "id": UUID(id),
        "user": "default",
        "format": "webp",
        "width": width,
        "height": height,
        "orientation": 6,
        "size_bytes": 1000,
        "sha256": id[0] * 64,
        "s3_key": f"dreamforge/default/inputs/{id}",
        "created_at": now,
        "used_at": now,
    }
    return Input(**(facts | changes))


FOUND = Pictures(by_id={IMAGE: stored(IMAGE), MASK: stored(MASK)})
ABLE = model(capabilities=["generate", "image_to_image", "inpaint"])


def test_a_picture_is_pinned_and_gives_its_size() -> None:
    step = plan(ABLE, pictures=FOUND, image=IMAGE, mask=MASK).steps[0]
    assert (step.params["width"], step.params["height"]) == (96, 64)
    assert step.params["strength"] == 0.75
    assert step.inputs is not None
    assert [(each["item_index"], each["role"], each["id"]) for each in step.inputs] == [
        (0, "image", IMAGE),
        (1, "mask", MASK),
    ]
    assert PinnedInput(**step.inputs[0]).orientation == 6
    # Both are decoded one after the other, in the memory of the device, and kept.
    bare = preset("cpu").budget_for("sd", 96 * 64).vram_bytes
    assert step.vram_bytes == bare + (DECODING_BYTES["webp"] + 2 * DECODED_BYTES) * 96 * 64
    assert plan(ABLE).steps[0].inputs is None
    assert plan(ABLE).steps[0].params["strength"] is None


def test_a_model_that_cannot_start_from_a_picture_is_refused_with_those_that_can() -> None:
    error = refusal(model(capabilities=["generate"]), upscaler=ABLE, pictures=FOUND, image=IMAGE)
    assert error.message == (
        "image: tiny@1 cannot do that (image_to_image); it can: generate. Models that can: tiny@1"
    )
    assert error.details["models"] == ["tiny@1"]


def test_a_model_that_only_edits_draws_nothing_without_a_picture() -> None:
    error = refusal(model(capabilities=["edit"]))
    assert error.message == (
        "images: tiny@1 changes pictures and makes none from words alone; send one in images, or "
        "name another model"
    )
    assert error.details["field"] == "images"


def test_a_picture_that_the_model_cannot_draw_is_refused_with_a_size_that_it_can() -> None:
    found = Pictures(by_id={IMAGE: stored(IMAGE, 4000, 3000)})
    error = refusal(ABLE, pictures=found, image=IMAGE)
    assert (error.details["width"], error.details["height"]) == (64, 48)
    assert plan(ABLE, pictures=found, image=IMAGE, width=64, height=48).steps[0].inputs


# Schemas that no release of ours has written.
ODD_SIDES: list[dict[str, Any]] = [
    {},
    {"type": "integer"},
    {"minimum": 32},
    {"maximum": 128, "default": 64},
    {"multipleOf": 16},
    {"multipleOf": 0.5, "minimum": 0.5, "maximum": 1e300, "default": 1e300},
    {"multipleOf": 10**30, "default": 10**400, "minimum": -(10**30)},
    {"minimum": 128, "maximum": 32},
    {"default": 0},
    {"default": "x", "enum": [64, "x"]},
    {"const": 64},
    {"not": {"minimum": 70}},
]


@pytest.mark.parametrize("rule", ODD_SIDES)
@pytest.mark.parametrize("size", [(96, 64), (97, 64), (8, 8), (8000, 8), (1, 8000)])
def test_a_picture_is_drawn_or_refused_whatever_a_schema_says_of_sides(
    rule: dict[str, Any], size: tuple[int, int]
) -> None:
    defaults = {"steps": {"default": 4}, "guidance": {"default": 1}}
    schema = {"properties": {"width": rule, "height": rule, **defaults}}
    odd = model(parameters_schema=schema, capabilities=["generate", "image_to_image"])
    found = Pictures(by_id={IMAGE: stored(IMAGE, *size)})
    try:
        params = plan(odd, pictures=found, image=IMAGE).steps[0].params
    except InvalidInput as refused:
        assert refused.message.startswith("image: tiny@1 draws no picture of its")
        sides = {name: refused.details.get(name) for name in ("width", "height")}
        if None not in sides.values():
            assert plan(odd, pictures=found, image=IMAGE, **sides).steps[0].params.items() >= (
                sides.items()
            )
    else:
        assert (params["width"], params["height"]) == size


def test_what_else_a_schema_asks_for_is_no_matter_of_a_pictures_size() -> None:
    rules = ABLE.parameters_schema | {"required": ["negative_prompt"]}
    asking = model(parameters_schema=rules, capabilities=ABLE.capabilities)
    assert plan(asking, pictures=FOUND, image=IMAGE).steps[0].params["width"] == 96


@pytest.mark.parametrize(
    ("name", "default"),
    [("width", 0), ("width", 7), ("height", 10**30), ("steps", 10**6)],
)
def test_a_default_that_no_request_could_say_is_the_models_fault(name: str, default: int) -> None:
    sides = {"width": {"default": 64}, "height": {"default": 64}}
    rules = sides | {"steps": {"default": 4}, "guidance": {"default": 1}}
    assert plan(model(parameters_schema={"properties": rules})).steps[0].params["width"] == 64
    error = refusal(model(parameters_schema={"properties": rules | {name: {"default": default}}}))
    assert isinstance(error, ModelUnavailable)
    assert "import it again" in error.message
