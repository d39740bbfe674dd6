from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.progress import STAGES, StepProgress

events = st.lists(
    st.tuples(
        st.sampled_from(["load", "sampling", "decode", "upload", "stored"]),
        st.integers(min_value=0, max_value=3),
        st.floats(min_value=0, max_value=1),
    ),
    max_size=60,
)


def apply(progress: StepProgress, event: tuple[str, int, float]) -> None:
    stage, item, fraction = event
    if stage == "stored":
        progress.stored(item)
    else:
        progress.advance(stage, item_index=None if stage == "load" else item, fraction=fraction)


@given(events)
def test_progress_never_goes_back_and_stays_within_bounds(
    sequence: list[tuple[str, int, float]],
) -> None:
    progress = StepProgress("generate", 4)
    before = progress.total
    for event in sequence:
        apply(progress, event)
        assert before <= progress.total + 1e-12
        assert 0.0 <= progress.total <= 1.0 + 1e-12
        before = progress.total


@given(events, st.integers(min_value=0, max_value=3))
def test_progress_of_one_item_never_goes_back(
    sequence: list[tuple[str, int, float]], item: int
) -> None:
    progress = StepProgress("generate", 4)
    before = 0.0
    for event in sequence:
        apply(progress, event)
        assert before <= progress.item(item) <= 1.0
        before = progress.item(item)


@pytest.mark.parametrize("job_type", sorted(STAGES))
def test_weights_sum_to_one_and_begin_with_the_load(job_type: str) -> None:
    assert STAGES[job_type][0][0] == "load"
    assert sum(weight for _, weight in STAGES[job_type]) == pytest.approx(1.0)


def test_all_items_stored_is_exactly_one_and_nothing_less_is() -> None:
    progress = StepProgress("generate", 3)
    progress.advance("load", item_index=None, fraction=1.0)
    assert progress.total == pytest.approx(0.10)
    for item in range(3):
        assert progress.total < 1.0
        progress.stored(item)
    assert progress.total == 1.0


def test_stages_add_up_in_their_order() -> None:
    progress = StepProgress("generate", 1)
    seen = []
    for stage in ("sampling", "decode", "upload"):
        progress.advance(stage, item_index=0, fraction=1.0)
        seen.append(progress.total)
    assert seen == pytest.approx([0.85, 0.95, 1.0])


def test_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="no stage 'painting'"):
        StepProgress("generate", 1).advance("painting", item_index=0, fraction=0.5)
