"""What a step may still take of the host's memory is not promised to another one."""

from supervisor.execution.host_memory import HostMemory


def test_what_a_step_has_not_taken_yet_is_counted_for_the_others() -> None:
    memory, taken = HostMemory(), [0]
    memory.promise("cpu-0", 100, lambda: taken[0])
    memory.promise("cpu-1", 10, lambda: 0)
    assert memory.untaken_bytes(besides="cpu-1") == 100
    assert memory.untaken_bytes(besides="cpu-0") == 10
    taken[0] = 70
    assert memory.untaken_bytes(besides="cpu-1") == 30


def test_what_a_step_takes_beyond_its_promise_is_no_memory_of_others() -> None:
    memory = HostMemory()
    memory.promise("cpu-0", 100, lambda: 150)
    memory.promise("cpu-1", 40, lambda: 0)
    assert memory.untaken_bytes(besides="cpu-2") == 40


def test_a_step_that_has_left_its_slot_takes_no_more() -> None:
    memory = HostMemory()
    memory.promise("cpu-0", 100, lambda: 0)
    memory.release("cpu-0")
    memory.release("cpu-0")
    assert memory.untaken_bytes(besides="cpu-1") == 0
