"""One picture is finished while the next is sampled, never two, and no failure is lost."""

from __future__ import annotations

import threading

import pytest

from runner.failures import build_failure
from runner.images.sender import ImageNotSent, ImageSender


def test_sampling_goes_on_while_a_picture_is_being_finished() -> None:
    sampled_next, finished = threading.Event(), threading.Event()

    def finish() -> None:
        assert sampled_next.wait(30), "the sampler waited for the encoder"
        finished.set()

    with ImageSender() as sender:
        sender.submit(0, finish)
        sampled_next.set()
    assert finished.is_set()


def test_the_sampler_is_never_more_than_one_picture_ahead() -> None:
    running = most = 0
    lock = threading.Lock()
    done: list[int] = []

    def finish(index: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        done.append(index)
        with lock:
            running -= 1

    with ImageSender() as sender:
        for index in range(20):
            sender.submit(index, lambda index=index: finish(index))  # type: ignore[misc]
            assert len(done) >= index, "an earlier picture is still there"
    assert (most, done) == (1, list(range(20)))


def fail() -> None:
    raise MemoryError("no room for the file")


def test_a_failure_names_its_own_item_and_keeps_its_kind() -> None:
    sampled = []
    with pytest.raises(ImageNotSent) as caught, ImageSender() as sender:
        sender.submit(0, lambda: None)
        sender.submit(1, fail)
        sampled.append(2)
        sender.submit(2, lambda: None)
    assert sampled == [2]
    told = build_failure(caught.value, doing="sampling", folder="/m", memory={}, item_index=2)
    assert (told.reason, told.details["item_index"]) == ("host_oom", 1)
    assert told.details["exception"] == "MemoryError"
    assert told.message == "the host ran out of memory while encoding the picture"


def test_the_last_picture_s_failure_is_raised_at_the_end() -> None:
    with pytest.raises(ImageNotSent, match="item 7"), ImageSender() as sender:
        sender.submit(7, fail)


def test_a_step_that_ends_otherwise_still_finishes_what_was_sampled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished = threading.Event()
    with pytest.raises(KeyError), ImageSender() as sender:
        sender.submit(0, finished.set)
        raise KeyError
    assert finished.is_set()
    with pytest.raises(KeyError), ImageSender() as sender:
        sender.submit(3, fail)
        raise KeyError
    assert "item 3 could not be finished: MemoryError" in capsys.readouterr().err


def test_nothing_is_left_of_the_thread() -> None:
    before = threading.active_count()
    with ImageSender() as sender:
        sender.submit(0, lambda: None)
    assert threading.active_count() == before
