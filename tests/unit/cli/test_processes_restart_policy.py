"""Backoff and the limit of five deaths in a minute, without a clock."""

from cli.processes.restart_policy import RestartPolicy


def test_delays_double_with_each_death_in_the_window() -> None:
    policy = RestartPolicy()
    assert [policy.record_death(float(at)) for at in range(4)] == [0.5, 1.0, 2.0, 4.0]


def test_fifth_death_within_a_minute_is_the_end() -> None:
    policy = RestartPolicy()
    for at in (0.0, 15.0, 30.0, 45.0):
        assert policy.record_death(at) is not None
    assert policy.record_death(60.0) is None


def test_deaths_older_than_a_minute_are_forgotten() -> None:
    policy = RestartPolicy()
    for at in (0.0, 15.0, 30.0, 45.0):
        policy.record_death(at)
    assert policy.record_death(60.1) == 4.0
    assert policy.record_death(500.0) == 0.5
