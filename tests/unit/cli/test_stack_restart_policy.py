"""Backoff and the limit of five deaths in a minute, without a clock."""

from cli.stack.restart_policy import Deaths


def test_delays_double_with_each_death_in_the_window() -> None:
    deaths = Deaths()
    assert [deaths.died(float(at)) for at in range(4)] == [0.5, 1.0, 2.0, 4.0]


def test_fifth_death_within_a_minute_is_the_end() -> None:
    deaths = Deaths()
    for at in (0.0, 15.0, 30.0, 45.0):
        assert deaths.died(at) is not None
    assert deaths.died(60.0) is None


def test_deaths_older_than_a_minute_are_forgotten() -> None:
    deaths = Deaths()
    for at in (0.0, 15.0, 30.0, 45.0):
        deaths.died(at)
    assert deaths.died(60.1) == 4.0
    assert deaths.died(500.0) == 0.5
