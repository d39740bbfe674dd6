"""Start parts in order, watch them, stop them in reverse.

Rules. A child is spawned and recorded in one step that no signal can divide. A part counts as
started when it *serves*, not when it runs. `tick` never blocks for long: restarts happen when their
time has come. `stop` may be called at any moment and as often as one likes, and when it returns no
process is left. All calls come from the main thread (child.py says why).
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from cli.errors import StackError
from cli.files import describe_error
from cli.processes import orphans, signals
from cli.processes.child import Child, last_lines, rotate, spawn
from cli.processes.part import Command, Part
from cli.processes.restart_policy import LIMIT, WINDOW_S, RestartPolicy
from cli.state_dir import StateDir

_POLL_S = 0.05
_HELPER_DEADLINE_S = 120.0  # initdb on a slow disk
_HELPER_GRACE_S = 2.0


@dataclass(kw_only=True)
class ManagedPart:
    """A part, its present process, and when it is started or judged again."""

    part: Part
    child: Child
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    restart_at: float | None = None
    ready_by: float | None = None


class ProcessManager:
    """The processes of one stack."""

    def __init__(self, home: StateDir, notify: Callable[[str], None]) -> None:
        self._home = home
        self._notify = notify
        self.parts: dict[str, ManagedPart] = {}
        self._helper: Child | None = None
        self._reported: set[tuple[object, int | None]] = set()

    def start(self, parts: Sequence[Part]) -> None:
        """Prepare and spawn each in order, then wait until all of them serve."""
        for part in parts:
            self._spawn(part)
        for part in parts:
            self._wait_ready(self.parts[part.name])

    def _run(self, command: Command, log: str) -> None:
        """Run a short helper to its end; raises with its last lines when it fails."""
        with signals.defer():
            self._helper = self._launch(command, log)
        helper = self._helper
        deadline = time.monotonic() + _HELPER_DEADLINE_S
        while helper.exit_code is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if helper.exit_code != 0:
            raise StackError(f"{command.argv[0]}: {helper.exit_text}{_evidence(helper)}")
        self._helper = None

    def _spawn(self, part: Part) -> None:
        part.prepare(partial(self._run, log=part.name))
        with signals.defer():
            child = self._launch(part.command(), part.name)
            managed = self.parts.setdefault(part.name, ManagedPart(part=part, child=child))
            managed.child, managed.restart_at = child, None
            self._record_children()

    def _launch(self, command: Command, log: str) -> Child:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children die with the thread that spawned them: use the main one")
        marker = {orphans.MARKER: str(self._home.path)}
        command = replace(command, environ={**command.environ, **marker})
        return spawn(command, self._home.log(log))

    def _record_children(self) -> None:
        """Note who runs, for the start after a crash. It finds most of them without the note."""
        children = {name: managed.child for name, managed in self.parts.items()}
        with self._reporting():
            orphans.record_children(self._home, children)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report a file that cannot be written, once for each reason: no part ends for it."""
        try:
            yield
        except OSError as error:
            reason = (error.filename, error.errno)  # the line itself has a figure that moves
            if reason not in self._reported:
                self._reported.add(reason)
                self._notify(describe_error(error))

    def _wait_ready(self, managed: ManagedPart) -> None:
        deadline = time.monotonic() + managed.part.ready_timeout_s
        while (reason := managed.part.not_ready()) is not None:
            if managed.child.exit_code is not None:
                raise StackError(
                    f"{managed.part.title} ended while starting ({managed.child.exit_text})"
                    f"{_evidence(managed.child)}"
                )
            if time.monotonic() >= deadline:
                raise StackError(
                    f"{managed.part.title} at {managed.part.address()} is not ready after "
                    f"{managed.part.ready_timeout_s:g} s: {reason}{_evidence(managed.child)}"
                )
            time.sleep(_POLL_S)

    def tick(self) -> None:
        """Check every part once; raises StackError when one cannot be kept alive."""
        for managed in self.parts.values():
            with self._reporting():
                rotate(managed.child.log)
            if managed.restart_at is not None:
                if time.monotonic() >= managed.restart_at:
                    self._restart(managed)
            elif managed.child.exit_code is not None:
                self._on_death(managed)
            elif managed.ready_by is not None:
                self._check_restart(managed, managed.ready_by)

    def _restart(self, managed: ManagedPart) -> None:
        try:
            self._spawn(managed.part)
        except OSError as error:  # it could not be started at all: a full disk, as a rule
            self._on_death(managed, describe_error(error))
        else:
            managed.ready_by = time.monotonic() + managed.part.ready_timeout_s

    def _on_death(self, managed: ManagedPart, problem: str = "") -> None:
        managed.ready_by = None
        title, why = managed.part.title, problem or managed.child.exit_text
        delay_s = managed.restarts.record_death(time.monotonic())
        if delay_s is None:
            raise StackError(
                f"{title} died {LIMIT} times in {WINDOW_S:g} s, last by {why}: "
                f"stopping everything{_evidence(managed.child)}"
            )
        self._notify(
            f"{title} died ({why}), starting it again in {delay_s:g} s{_evidence(managed.child)}"
        )
        managed.restart_at = time.monotonic() + delay_s

    def _check_restart(self, managed: ManagedPart, ready_by: float) -> None:
        if (reason := managed.part.not_ready()) is None:
            managed.ready_by = None
            self._notify(f"{managed.part.title} is back (pid {managed.child.pid})")
        elif time.monotonic() >= ready_by:
            self._notify(f"{managed.part.title} runs but does not serve, killing it: {reason}")
            managed.child.stop(managed.part.stop_signal, 0.0)

    def stop(self) -> None:
        """End everything in reverse order. One more signal from the user kills without waiting."""
        with signals.defer():
            before = signals.count_received()
            if self._helper is not None:
                self._helper.stop(signal.SIGTERM, _HELPER_GRACE_S)
                self._helper = None
            for managed in reversed(self.parts.values()):
                managed.child.stop(
                    managed.part.stop_signal,
                    managed.part.stop_grace_s,
                    skip_grace=lambda: signals.count_received() > before,
                )
            self.parts.clear()
            orphans.end_all(self._home)
            self._record_children()


def _evidence(child: Child) -> str:
    lines = last_lines(child.log)
    return f"\n  {child.log} ends with:\n{lines}" if lines else f"; its log is {child.log}"
