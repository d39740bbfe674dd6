"""Starts parts in order, watches them, stops them in reverse.

Rules. A child is spawned and noted in one step that no signal can divide. A part counts as started
when it *serves*, not when it runs. `tick` never blocks for long: restarts happen when their time
has come. `stop` may be called at any moment and as often as one likes, and when it returns there
is no process left. All calls come from the main thread (launch.py says why).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from cli.stack import child as launch
from cli.stack import orphans, signals
from cli.stack.child import Child, Command
from cli.stack.errors import StackError
from cli.stack.part import Part
from cli.stack.restart_policy import LIMIT, WINDOW_S, Deaths
from cli.state_dir import Home

_POLL_S = 0.05
_HELPER_DEADLINE_S = 120.0  # initdb on a slow disk
_HELPER_GRACE_S = 2.0


@dataclass(kw_only=True)
class _Kept:
    part: Part
    child: Child
    deaths: Deaths = field(default_factory=Deaths)
    restart_at: float | None = None
    ready_by: float | None = None


class Keeper:
    """The processes of one stack."""

    def __init__(self, home: Home, say: Callable[[str], None]) -> None:
        self._home = home
        self._say = say
        self._kept: dict[str, _Kept] = {}
        self._helper: Child | None = None

    # Starting --------------------------------------------------------------------------------

    def start(self, parts: Sequence[Part]) -> None:
        """Prepare and spawn each in order, then wait until all of them serve."""
        for part in parts:
            self._spawn(part)
        for part in parts:
            self._wait_ready(self._kept[part.name])

    def marked(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment by which the next start would know the process as ours."""
        return {**environ, orphans.MARKER: str(self._home.path)}

    def run(self, command: Command, log: str) -> None:
        """Run a short helper to its end; raises with its last lines when it fails."""
        with signals.held():
            self._helper = self._launch(command, log)
        helper = self._helper
        deadline = time.monotonic() + _HELPER_DEADLINE_S
        while helper.exit_code is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if helper.exit_code != 0:
            raise StackError(f"{command.argv[0]}: {helper.exit_text}{_evidence(helper)}")
        self._helper = None

    def _spawn(self, part: Part) -> None:
        part.prepare(partial(self.run, log=part.name))
        with signals.held():
            child = self._launch(part.command(), part.name)
            known = self._kept.get(part.name)
            if known is None:
                self._kept[part.name] = _Kept(part=part, child=child)
            else:
                known.child, known.restart_at = child, None
            self._note()

    def _launch(self, command: Command, log: str) -> Child:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children die with the thread that spawned them: use the main one")
        return launch.spawn(command, self._home.log(log))

    def _note(self) -> None:
        orphans.note(self._home, {name: kept.child.proc for name, kept in self._kept.items()})

    def _wait_ready(self, kept: _Kept) -> None:
        deadline = time.monotonic() + kept.part.ready_timeout_s
        while (reason := kept.part.not_ready()) is not None:
            if kept.child.exit_code is not None:
                raise StackError(
                    f"{kept.part.title} ended while starting ({kept.child.exit_text})"
                    f"{_evidence(kept.child)}"
                )
            if time.monotonic() >= deadline:
                raise StackError(
                    f"{kept.part.title} at {kept.part.address()} is not ready after "
                    f"{kept.part.ready_timeout_s:g} s: {reason}{_evidence(kept.child)}"
                )
            time.sleep(_POLL_S)

    # Watching --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look after every part once; raises StackError when one cannot be kept alive."""
        for kept in self._kept.values():
            if kept.restart_at is not None:
                if time.monotonic() >= kept.restart_at:
                    self._spawn(kept.part)
                    kept.ready_by = time.monotonic() + kept.part.ready_timeout_s
            elif kept.child.exit_code is not None:
                self._mourn(kept)
            elif kept.ready_by is not None:
                self._look_again(kept, kept.ready_by)

    def _mourn(self, kept: _Kept) -> None:
        kept.ready_by = None
        title, child = kept.part.title, kept.child
        delay_s = kept.deaths.died(time.monotonic())
        if delay_s is None:
            raise StackError(
                f"{title} died {LIMIT} times in {WINDOW_S:g} s, last by {child.exit_text}: "
                f"stopping everything{_evidence(child)}"
            )
        self._say(
            f"{title} died ({child.exit_text}), starting it again in {delay_s:g} s"
            f"{_evidence(child)}"
        )
        kept.restart_at = time.monotonic() + delay_s

    def _look_again(self, kept: _Kept, ready_by: float) -> None:
        if (reason := kept.part.not_ready()) is None:
            kept.ready_by = None
            self._say(f"{kept.part.title} is back (pid {kept.child.pid})")
        elif time.monotonic() >= ready_by:
            self._say(f"{kept.part.title} runs but does not serve, killing it: {reason}")
            kept.child.end(kept.part.stop_signal, 0.0)

    # One part at a time (crash tests) ------------------------------------------------------------

    def pids(self) -> dict[str, int]:
        return {name: kept.child.pid for name, kept in self._kept.items()}

    def kill(self, name: str) -> None:
        """SIGKILL the part's first process, as a crash would."""
        self._kept[name].child.kill()

    def stop_part(self, name: str) -> None:
        """Stop it in its own polite way."""
        kept = self._kept[name]
        kept.child.end(kept.part.stop_signal, kept.part.stop_grace_s)

    def restart(self, name: str) -> None:
        """Start it again where it was, stopping it first if it runs, and wait until it serves."""
        kept = self._kept[name]
        if kept.child.exit_code is None:
            self.stop_part(name)
        self._spawn(kept.part)
        self._wait_ready(kept)

    # Stopping --------------------------------------------------------------------------------

    def stop(self) -> None:
        """End everything in reverse order. One more signal from the user kills without waiting."""
        with signals.held():
            before = signals.count()
            if self._helper is not None:
                self._helper.end(signal.SIGTERM, _HELPER_GRACE_S)
                self._helper = None
            for kept in reversed(self._kept.values()):
                kept.child.end(
                    kept.part.stop_signal,
                    kept.part.stop_grace_s,
                    hurry=lambda: signals.count() > before,
                )
            self._kept.clear()
            orphans.clean(self._home)
            self._note()


def _evidence(child: Child) -> str:
    lines = launch.last_lines(child.log)
    return f"\n  {child.log} ends with:\n{lines}" if lines else f"; its log is {child.log}"
