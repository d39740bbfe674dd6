"""Which upscaler a request means, and what is refused with what would be accepted."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from tests.support.model_rows import model_row

from api.admission.upscalers import choose_upscaler
from api.schemas.requests import Upscale
from shared.db.models import Model
from shared.db.workers import Worker
from shared.errors import InvalidInput, ModelUnavailable


def model(name: str, kind: str, scale: int | None, *, enabled: bool = True) -> Model:
    return model_row(
        name=name,
        kind=kind,
        enabled=enabled,
        descriptor={"scale": scale},
        capabilities=["upscale" if scale else "generate"],
    )


SD = model("sd", "sd", None)
GAN_2, GAN_4 = model("gan2", "esrgan", 2), model("gan4", "esrgan", 4)
DIFFUSION_2 = model("latent2", "sd_latent_upscale", 2)
DIFFUSION_4 = model("diffusion4", "sd_upscale", 4)
ALL = [SD, GAN_2, GAN_4, DIFFUSION_2, DIFFUSION_4]


def upscale(**changes: Any) -> Upscale:
    return Upscale.model_validate({"scale": 2} | changes)


def worker(*models: Model) -> Worker:
    return Worker(
        id=uuid4(),
        host="h",
        version="1",
        queues=[],
        slots=[],
        models={model.id: model.checkpoint_sha256 for model in models},
    )


@pytest.mark.parametrize(
    ("there", "scale", "strict", "chosen"),
    [
        (ALL, 2, False, GAN_2),
        (ALL, 4, True, GAN_4),
        ([SD, GAN_4, DIFFUSION_2], 2, False, DIFFUSION_2),
        ([SD, GAN_4, DIFFUSION_4], 2, False, GAN_4),
        ([SD, DIFFUSION_4], 2, False, DIFFUSION_4),
    ],
)
def test_auto_prefers_the_right_scale_then_a_gan(
    there: list[Model], scale: int, strict: bool, chosen: Model
) -> None:
    assert choose_upscaler(upscale(scale=scale, strict_scale=strict), there, []) is chosen


@pytest.mark.parametrize(("impl", "chosen"), [("gan", GAN_2), ("diffusion", DIFFUSION_2)])
def test_an_implementation_that_is_named_is_kept_to(impl: str, chosen: Model) -> None:
    assert choose_upscaler(upscale(impl=impl), ALL, []) is chosen
    assert choose_upscaler(upscale(impl="resample"), ALL, []) is None


@pytest.mark.parametrize(
    "reference", ["gan4", "gan4@1", str(GAN_4.id)], ids=["name", "version", "id"]
)
def test_an_upscaler_that_is_named_is_taken_whatever_else_there_is(reference: str) -> None:
    assert choose_upscaler(upscale(model_id=reference), ALL, []) is GAN_4


@pytest.mark.parametrize(
    ("there", "request_", "field", "message"),
    [
        ([SD], {}, "impl", "available: resample"),
        ([SD], {"impl": "gan"}, "impl", "'gan' is not available; available: resample"),
        ([SD, GAN_2], {"impl": "diffusion"}, "impl", "available: resample, gan"),
        ([SD, GAN_4], {"strict_scale": True}, "scale", "there are gan4@1 (4)"),
        (ALL, {"model_id": "gan4", "strict_scale": True}, "scale", "4 times as large"),
        (ALL, {"model_id": "sd"}, "model_id", "sd@1 cannot upscale; these can: gan2@1, gan4@1"),
        (ALL, {"model_id": "gan4", "impl": "diffusion"}, "impl", "is a gan upscaler"),
        (ALL, {"model_id": "gan4", "impl": "resample"}, "model_id", "uses no model"),
        ([GAN_2, model("other", "esrgan", 2)], {}, "model_id", "name one of: gan2@1, other@1"),
    ],
)
def test_what_cannot_be_is_refused_with_what_could(
    there: list[Model], request_: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        choose_upscaler(upscale(**request_), there, [])
    assert caught.value.details["field"] == f"chain.upscale.{field}"
    assert message in caught.value.message


def test_the_one_that_ships_gives_way_to_every_other() -> None:
    shipped = model("dreamforge-upscaler", "network", 4)
    shipped.descriptor["source"] = {"uri": "dreamforge:training"}
    assert choose_upscaler(upscale(scale=4), [SD, shipped], []) is shipped
    assert choose_upscaler(upscale(scale=2), [SD, shipped], []) is shipped
    for other in (GAN_4, GAN_2, DIFFUSION_2):
        assert choose_upscaler(upscale(scale=4), [shipped, other], []) is other
    assert choose_upscaler(upscale(scale=4, strict_scale=True), [shipped, GAN_2], []) is shipped
    assert choose_upscaler(upscale(scale=4, impl="gan"), [shipped, DIFFUSION_4], []) is shipped
    assert choose_upscaler(upscale(model_id="dreamforge-upscaler"), [shipped, *ALL], []) is shipped
    with pytest.raises(InvalidInput, match="no upscaler was made for scale 2"):
        choose_upscaler(upscale(strict_scale=True), [shipped, GAN_4], [])


def test_a_network_that_restores_is_taken_where_it_is_named() -> None:
    restorer = model("denoise", "network", 1)
    assert choose_upscaler(upscale(model_id="denoise"), [restorer, GAN_2], []) is restorer
    assert choose_upscaler(upscale(), [restorer, GAN_2], []) is GAN_2
    with pytest.raises(InvalidInput, match=r"available: resample$"):
        choose_upscaler(upscale(), [restorer], [])
    with pytest.raises(InvalidInput, match="denoise@1 restores and does not enlarge"):
        choose_upscaler(upscale(model_id="denoise", strict_scale=True), [restorer], [])


def test_an_unknown_or_disabled_upscaler_is_unavailable() -> None:
    with pytest.raises(ModelUnavailable, match="no such model") as unknown:
        choose_upscaler(upscale(model_id="nope"), ALL, [])
    with pytest.raises(ModelUnavailable, match="disabled") as disabled:
        choose_upscaler(upscale(model_id="off"), [model("off", "esrgan", 2, enabled=False)], [])
    for found in (unknown, disabled):
        assert found.value.details["field"] == "chain.upscale.model_id"
    with pytest.raises(InvalidInput):
        choose_upscaler(upscale(), [model("off", "esrgan", 2, enabled=False)], [])


def test_an_upscaler_that_no_living_worker_has_is_not_chosen() -> None:
    assert choose_upscaler(upscale(), ALL, [worker(SD, DIFFUSION_2)]) is DIFFUSION_2
    with pytest.raises(InvalidInput, match=r"available: resample$"):
        choose_upscaler(upscale(), ALL, [worker(SD)])
