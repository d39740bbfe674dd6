"""What a worker believes of a template's answers."""

from typing import Any

import pytest

from shared.protocol.frames import FrameError
from shared.protocol.template_messages import MAX_PID, Forked, parse_from_template


@pytest.mark.parametrize("pid", [1, MAX_PID])
def test_a_fork_has_the_number_of_one_process(pid: int) -> None:
    assert parse_from_template({"type": "forked", "pid": pid}) == Forked(pid=pid)


@pytest.mark.parametrize("pid", [0, -1, -1234, MAX_PID + 1, 1 << 70, None, "all", 1.5])
def test_a_number_that_names_more_or_less_than_one_process_is_refused(pid: Any) -> None:
    """Signals to 0 and -1 reach a group, and all processes of the user."""
    with pytest.raises(FrameError):
        parse_from_template({"type": "forked", "pid": pid})
