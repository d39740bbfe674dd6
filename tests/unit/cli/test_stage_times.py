"""Stage times come from event timestamps, and nothing is invented."""

from typing import Any

from cli.terminal.stage_times import stage_times


def _event(code: str, second: float, stage: str | None = None) -> dict[str, Any]:
    payload = {"stage": stage} if stage else None
    return {"code": code, "ts": f"2026-01-01T00:00:{second:06.3f}Z", "payload": payload}


def test_every_stage_lies_between_its_marks_and_all_sum_up_to_the_total() -> None:
    times = stage_times(
        [
            _event("job.created", 0),
            _event("step.claimed", 1),
            _event("step.start", 3),
            _event("progress", 3.5, "load"),
            _event("progress", 4, "sampling"),
            _event("progress", 5, "sampling"),
            _event("progress", 9, "decode"),
            _event("artifact.written", 9.5),
            _event("job.finish", 10),
        ]
    )
    assert times == [
        ("queue", 1.0),
        ("start", 2.0),
        ("load", 1.0),
        ("sampling", 5.0),
        ("decode and upload", 0.5),
        ("verify and verdict", 0.5),
        ("total", 10.0),
    ]


def test_an_upscale_has_a_stage_of_its_own() -> None:
    times = stage_times(
        [
            _event("job.created", 0),
            _event("step.claimed", 0.5),
            _event("step.start", 1),
            _event("artifact.written", 4),
            _event("step.finish", 5),
            _event("step.claimed", 5.5),
            _event("step.start", 6),
            _event("progress", 6.5, "sampling"),
            _event("artifact.written", 8),
            _event("step.finish", 9),
            _event("job.finish", 9),
        ]
    )
    assert times == [
        ("queue", 0.5),
        ("start", 0.5),
        ("load + sampling + decode and upload", 3.0),
        ("verify", 1.0),
        ("upscale", 3.0),
        ("verify and verdict", 1.0),
        ("total", 9.0),
    ]


def test_a_stage_that_ended_unseen_is_shown_with_the_next() -> None:
    times = stage_times(
        [
            _event("job.created", 0),
            _event("step.start", 3),
            _event("artifact.written", 5),
            _event("job.finish", 6),
        ]
    )
    assert times == [
        ("queue + start", 3.0),
        ("load + sampling + decode and upload", 2.0),
        ("verify and verdict", 1.0),
        ("total", 6.0),
    ]


def test_progress_that_is_written_after_the_artifact_does_not_count() -> None:
    times = stage_times(
        [
            _event("job.created", 0),
            _event("step.start", 1),
            _event("artifact.written", 3),
            _event("progress", 3.01, "decode"),
            _event("job.finish", 4),
        ]
    )
    assert ("load + sampling + decode and upload", 2.0) in times
    assert all(seconds >= 0 for _, seconds in times)


def test_a_retried_step_counts_its_first_start() -> None:
    events = [_event("job.created", 0), _event("step.start", 1), _event("step.start", 30)]
    assert stage_times(events)[0] == ("queue + start", 1.0)


def test_no_events_no_times() -> None:
    assert stage_times([]) == []
    assert stage_times([_event("progress", 1, "sampling")]) == []
