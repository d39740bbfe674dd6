"""Where a step is in the line, and when it will start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from uuid import UUID, uuid4

import pytest
from tests.support.line_steps import GB, HASHES, MODEL, OTHER, kind_of
from tests.support.line_steps import line_step as step
from tests.support.simulated_day import Day, Model, Outcome, simulate

from api.waiting.forecast import CLAIM_S, Forecast, Place
from shared.db.run_times import Kind, RunTimes
from shared.db.waiting import Line, LineStep
from shared.db.workers import Slot, Worker
from shared.states import Priority
from shared.users import Serves


def worker(
    *capacities: int,
    models: Iterable[UUID] = (MODEL, OTHER),
    state: str = "free",
    serves: Serves = Serves(),  # noqa: B008 - it is frozen
) -> Worker:
    return Worker(
        id=uuid4(),
        host="host",
        version="1",
        queues=("default",),
        slots=[
            Slot(id=str(n), device="cuda", device_class="gpu", capacity_bytes=bytes_, state=state)
            for n, bytes_ in enumerate(capacities)
        ],
        models={model: HASHES[model] for model in models},
        serves=serves,
    )


def steady(seconds: float, *, work: float = 1.0, start_s: float = 1.0, count: int = 64) -> RunTimes:
    return RunTimes(work=[work] * count, start_seconds=[start_s] * count, seconds=[seconds] * count)


TIMES = {kind_of(MODEL): steady(10.0), kind_of(OTHER): steady(10.0)}


def line(
    *waiting: LineStep,
    live: Iterable[Worker] = (),
    running: Iterable[LineStep] = (),
    run_times: Mapping[Kind, RunTimes] = TIMES,
    cut: Iterable[str] = (),
) -> Line:
    return Line(
        waiting=waiting,
        cut=set(cut),
        running=list(running),
        live=list(live),
        run_times=run_times,
    )


def places(line: Line) -> list[Place]:
    forecast = Forecast(line)
    return [forecast.place(each) for each in line.waiting]


def middle(place: Place) -> float:
    assert place.starts_in_s is not None
    return (place.starts_in_s.low + place.starts_in_s.high - CLAIM_S) / 2


# The position -------------------------------------------------------------------------------------


def test_positions_count_from_one_in_the_order_of_the_line() -> None:
    waiting = [step() for _ in range(3)]
    assert [place.position for place in places(line(*waiting, live=[worker(8 * GB)]))] == [1, 2, 3]


def test_steps_that_other_slots_serve_are_not_counted() -> None:
    live = [worker(8 * GB, models=[MODEL]), worker(8 * GB, models=[OTHER])]
    waiting = [step(), step(OTHER), step(), step(OTHER)]
    assert [place.position for place in places(line(*waiting, live=live))] == [1, 1, 2, 2]


def test_a_worker_that_is_kept_for_others_serves_no_other_step() -> None:
    high, low = step(priority="high"), step(priority="low", user="bob")
    kept = worker(8 * GB, serves=Serves(priorities=(Priority.HIGH,)))
    first, second = places(line(high, low, live=[kept]))
    assert first.starts_in_s is not None
    assert (second.position, second.starts_in_s) == (1, None)
    for_bob = worker(8 * GB, serves=Serves(users=("bob",)))
    first, second = places(line(high, low, live=[kept, for_bob]))
    assert (first.position, second.position) == (1, 1)
    assert second.starts_in_s is not None


def test_steps_that_share_one_of_several_slots_are_counted() -> None:
    live = [worker(8 * GB), worker(24 * GB)]
    small, large = step(), step(vram_bytes=20 * GB)
    assert [place.position for place in places(line(small, large, step(), live=live))] == [1, 2, 3]


def test_a_step_that_no_slot_serves_waits_behind_its_like_and_its_start_is_unknown() -> None:
    waiting = [step(vram_bytes=99 * GB), step(), step(vram_bytes=99 * GB)]
    found = places(line(*waiting, live=[worker(8 * GB)]))
    assert [place.position for place in found] == [1, 1, 2]
    assert [place.starts_in_s is None for place in found] == [True, False, True]


@pytest.mark.parametrize("state", ["quarantined", "lost"])
def test_a_slot_that_takes_no_work_serves_nothing(state: str) -> None:
    (place,) = places(line(step(), live=[worker(8 * GB, state=state)]))
    assert place.starts_in_s is None


def test_a_step_that_the_line_does_not_have_is_behind_it() -> None:
    forecast = Forecast(line(step(), step(), live=[worker(8 * GB)]))
    place = forecast.place(step())
    assert (place.position, place.exact) == (3, True)
    assert middle(place) == pytest.approx(21, rel=0.2)


def test_behind_a_line_that_was_cut_the_position_is_a_lower_bound() -> None:
    forecast = Forecast(line(step(), live=[worker(8 * GB)], cut=["cuda"]))
    assert forecast.place(step()) == Place(position=2, exact=False, starts_in_s=None)


def test_a_job_is_found_by_its_step_that_waits() -> None:
    waiting = step()
    forecast = Forecast(line(waiting, live=[worker(8 * GB)]))
    assert forecast.place_of_job(waiting.job_id) == forecast.place(waiting)
    assert forecast.place_of_job(uuid4()) is None


# The span -----------------------------------------------------------------------------------------


def test_steps_start_one_after_another_and_the_first_at_once() -> None:
    first, second, third = places(line(*[step()] * 1, step(), step(), live=[worker(8 * GB)]))
    assert [round(middle(each)) for each in (first, second, third)] == pytest.approx(
        [1, 11, 21], rel=0.2
    )


def test_more_slots_make_the_wait_shorter() -> None:
    waiting = [step() for _ in range(9)]
    one = places(line(*waiting, live=[worker(8 * GB)]))[-1]
    four = places(line(*waiting, live=[worker(*[8 * GB] * 4)]))[-1]
    assert middle(one) == pytest.approx(81, rel=0.2)
    assert middle(four) == pytest.approx(21, rel=0.2)


def test_what_runs_has_only_its_rest_to_go() -> None:
    host = worker(8 * GB)
    held = step(worker_id=host.id, held_s=7.0)
    (place,) = places(line(step(), live=[host], running=[held]))
    assert middle(place) == pytest.approx(4, rel=0.2)


def test_a_step_that_runs_longer_than_any_before_it_is_not_taken_to_end_at_once() -> None:
    host = worker(8 * GB)
    held = step(worker_id=host.id, held_s=40.0)
    (place,) = places(line(step(), live=[host], running=[held]))
    assert place.starts_in_s is not None
    assert place.starts_in_s.low < 10
    assert 30 < place.starts_in_s.high < 50


def test_a_step_never_takes_longer_than_its_time_limit() -> None:
    host = worker(8 * GB)
    held = step(worker_id=host.id, held_s=4000.0, timeout_s=3950.0)
    (place,) = places(line(step(), live=[host], running=[held]))
    assert place.starts_in_s is not None
    assert place.starts_in_s.high < 15


def test_the_pause_before_another_try_is_waited_for() -> None:
    (place,) = places(line(step(due_in_s=30.0), live=[worker(8 * GB)]))
    assert place.starts_in_s is not None
    assert place.starts_in_s.low >= 30


def test_times_are_scaled_to_the_work() -> None:
    times = {kind_of(MODEL): RunTimes(
        work=[1.0, 2.0] * 20, start_seconds=[1.0] * 40, seconds=[1 + 6.0, 1 + 8.0] * 20
    )}  # fmt: skip
    first, second = step(work=10.0), step(work=10.0)
    place = places(line(first, second, live=[worker(8 * GB)], run_times=times))[1]
    assert middle(place) == pytest.approx((1 + 4 + 2 * 10) + 1, rel=0.2)


def test_few_samples_make_a_wider_span() -> None:
    def width(count: int) -> float:
        times = {kind_of(MODEL): steady(10.0, count=count)}
        span = places(line(step(), step(), live=[worker(8 * GB)], run_times=times))[1].starts_in_s
        assert span is not None
        return span.high - span.low

    assert width(1) > 2 * width(64)


def test_a_kind_that_was_never_measured_hides_what_is_behind_it_and_itself_starts() -> None:
    times = {kind_of(MODEL): steady(10.0)}
    waiting = [step(), step(OTHER), step(), step(vram_bytes=8 * GB, model=None)]
    found = places(line(*waiting, live=[worker(8 * GB)], run_times=times))
    assert [place.starts_in_s is None for place in found] == [False, False, True, True]


def test_what_is_unknown_hides_nothing_on_other_slots() -> None:
    times = {kind_of(MODEL): steady(10.0)}
    live = [worker(8 * GB, models=[OTHER]), worker(8 * GB, models=[MODEL])]
    found = places(line(step(OTHER), step(OTHER), step(), live=live, run_times=times))
    assert [place.starts_in_s is None for place in found] == [False, True, False]


def test_a_step_behind_an_unknown_one_may_take_a_known_slot() -> None:
    """The second may go to either slot: nobody knows, so the third is unknown as well."""
    times = {kind_of(MODEL): steady(10.0)}
    live = [worker(8 * GB, models=[MODEL, OTHER]), worker(8 * GB, models=[MODEL])]
    third = step(vram_bytes=8 * GB)
    found = places(line(step(OTHER), step(), third, live=live, run_times=times))
    assert [place.starts_in_s is None for place in found] == [False, True, True]


@pytest.mark.parametrize("held", [step(OTHER, held_s=1.0), step(held_s=None)])
def test_a_slot_whose_step_is_unknown_is_unknown(held: LineStep) -> None:
    host = worker(8 * GB)
    times = {kind_of(MODEL): steady(10.0)}
    running = [replace(held, worker_id=host.id)]
    (place,) = places(line(step(), live=[host], running=running, run_times=times))
    assert place.starts_in_s is None


def test_the_same_line_gives_the_same_answer() -> None:
    waiting = [step() for _ in range(5)]
    here = line(*waiting, live=[worker(8 * GB)])
    assert places(here) == places(here)


# Who ends next ------------------------------------------------------------------------------------


def test_the_next_end_of_a_user_is_the_first_of_its_own() -> None:
    host = worker(8 * GB)
    held = step(worker_id=host.id, held_s=4.0, user="bob")
    forecast = Forecast(line(step(), step(), live=[host], running=[held]))
    assert forecast.next_end_s("bob") == pytest.approx(6, rel=0.2)
    assert forecast.next_end_s("ada") == pytest.approx(16, rel=0.2)
    assert forecast.next_end_s("eve") is None


def test_a_step_that_others_follow_does_not_end_its_job() -> None:
    forecast = Forecast(line(step(last=False), live=[worker(8 * GB)]))
    assert forecast.next_end_s("ada") is None


# Calibration --------------------------------------------------------------------------------------

FAST = Model(id=MODEL, vram_bytes=8 * GB, start_s=1, median_s=60, sigma=0.15, share=0.6)
SLOW = Model(id=OTHER, vram_bytes=20 * GB, start_s=2, median_s=270, sigma=0.3, share=0.3)
WILD = Model(id=UUID(int=3), vram_bytes=8 * GB, start_s=1, median_s=120, sigma=0.8, share=0.1)
DAYS = {
    "one slot": Day(models=[FAST, SLOW], slots=[24 * GB], load=0.9),
    "four slots": Day(models=[FAST, SLOW, WILD], slots=[24 * GB] * 4, load=0.8),
    "two sizes": Day(models=[FAST, SLOW, WILD], slots=[24 * GB, 24 * GB, 12 * GB], load=0.9),
    "many works": Day(models=[FAST, WILD], slots=[24 * GB] * 2, load=0.9, works=(1, 2, 4, 8)),
    "a drift": Day(models=[FAST, SLOW], slots=[24 * GB] * 2, load=0.8, sigma_of_drift=0.15),
}


@cache
def looked_at(day: str, seed: int) -> list[Outcome]:
    """What was said of every eleventh job, where something was said."""
    outcomes = simulate(DAYS[day], seed, look_at_every=11)
    return [outcome for outcome in outcomes if outcome.said is not None]


def share_within(outcomes: list[Outcome]) -> float:
    within = 0
    for outcome in outcomes:
        assert outcome.said is not None
        within += outcome.said.low <= outcome.started_s <= outcome.said.high
    return within / len(outcomes)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("day", DAYS)
def test_over_a_day_eight_of_ten_starts_fall_into_their_span(day: str, seed: int) -> None:
    known = looked_at(day, seed)
    assert len(known) > 50
    assert share_within(known) >= 0.8
    waited = [outcome for outcome in known if outcome.started_s > 5]  # no free slot at once
    assert len(waited) > 20
    assert share_within(waited) >= 0.8


@pytest.mark.parametrize("day", DAYS)
def test_a_span_is_narrow_enough_to_be_of_use(day: str) -> None:
    widths = sorted(
        (outcome.said.high - outcome.said.low) / outcome.started_s
        for outcome in looked_at(day, 1)
        if outcome.said is not None and outcome.started_s > 30
    )
    assert widths[len(widths) // 2] < 1
