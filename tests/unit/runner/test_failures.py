from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch

from runner.failures import build_failure, reason_of, without_paths
from runner.process.cancellation import Cancelled
from shared.errors import ModelUnavailable
from shared.protocol.messages import Failure

FOLDER = "/srv/models/sd/tiny@1"


def described(error: Exception, memory: dict[str, int] | None = None) -> Failure:
    return build_failure(error, doing="sampling", folder=FOLDER, memory=memory or {}, item_index=3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (MemoryError(), "host_oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "host_oom"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "provider_error"),
        (RuntimeError("CUDA error: out of memory"), "provider_error"),
        (RuntimeError("CUDA out of memory"), "provider_error"),
        (OSError("no file"), "provider_error"),
        (ValueError("shapes"), "provider_error"),
        (ModelUnavailable("unet/x.bin: a pickle", file="unet/x.bin"), "model_unavailable"),
        (Cancelled(), "cancelled"),
    ],
)
def test_reason_follows_the_type_and_never_the_words_cuda_error(
    error: Exception, reason: str
) -> None:
    assert reason_of(error) == reason


def test_cpu_allocator_message_is_the_one_that_torch_raises() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert reason_of(caught.value) == "host_oom"


def test_oom_carries_the_allocator_and_the_item() -> None:
    failure = described(torch.OutOfMemoryError("x"), {"allocator_peak_bytes": 5})
    assert failure.details["allocator_peak_bytes"] == 5
    assert failure.details["item_index"] == 3
    assert failure.message == "the GPU ran out of memory while sampling"


def test_user_sees_no_path_and_no_traceback_and_the_operator_sees_both(
    capfd: pytest.CaptureFixture[str],
) -> None:
    try:
        raise OSError(f"{FOLDER}/unet and /root/.cache/thing.py failed")
    except OSError as error:
        failure = described(error)
    assert failure.message == "error while sampling: <model>/unet and <path> failed"
    assert "Traceback" not in failure.model_dump_json()
    assert "Traceback" in capfd.readouterr().err


def test_cancel_is_no_news_for_the_operator(capfd: pytest.CaptureFixture[str]) -> None:
    assert described(Cancelled()).reason == "cancelled"
    assert capfd.readouterr().err == ""


def test_error_without_a_text_is_named_and_a_long_one_is_cut() -> None:
    assert described(ValueError()).message == "error while sampling: ValueError"
    assert len(described(ValueError("x" * 10_000)).message) < 600


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("in /usr/lib/python3/x.py: no", "in <path>: no"),
        ("('/root/a b')", "('<path> b')"),
        ("ratio 1/2 of a and/or b", "ratio 1/2 of a and/or b"),
        ("~/.cache/hub", "<path>"),
        (r"C:\Users\me\model", "<path>"),
        ("a\n  b\tc", "a b c"),
    ],
)
def test_paths_are_taken_out_and_fractions_stay(text: str, clean: str) -> None:
    assert without_paths(text, FOLDER) == clean


def test_what_the_failed_frames_held_is_released() -> None:
    class Latents:
        pass

    held: list[weakref.ref[Latents]] = []

    def sample() -> NoReturn:
        latents = Latents()
        held.append(weakref.ref(latents))
        raise ValueError("broken")

    def attempt(body: Callable[[], NoReturn]) -> Exception:
        try:
            body()
        except ValueError as error:
            described(error)
            return error

    error = attempt(sample)
    gc.collect()
    assert isinstance(error, ValueError)
    assert held[0]() is None
