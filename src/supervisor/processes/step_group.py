"""The control group of one runner with a step (`control_groups.py` makes it)."""

import logging
from contextlib import suppress
from pathlib import Path

from supervisor.processes.group_files import GroupFiles, kill_all, pids_of

log = logging.getLogger(__name__)


class StepGroup:
    """The control group of one runner. Errors of reading count as "nothing there"."""

    def __init__(self, files: GroupFiles, folder: Path, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.released = False
        self._files = files
        self._folder = folder

    def pids(self) -> frozenset[int]:
        """Every process in it."""
        return frozenset(pids_of(self._files, self._folder))

    def kill(self) -> None:
        """SIGKILL to every process in it, however fast they fork."""
        kill_all(self._files, self._folder)

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for lack of memory."""
        return self._events().get("oom_kill", 0)

    def hit_limit(self) -> bool:
        """Whether that was for its own limit, and not for that of a group above it."""
        return self._events().get("oom", 0) > 0

    def release(self) -> None:
        """Nobody reads it any more: remove it now, or when its last process has ended."""
        self.released = True
        self.remove()

    def remove(self) -> bool:
        """Remove it; False while a process is in it."""
        try:
            self._files.remove(self._folder)
        except FileNotFoundError:
            return True
        except OSError as error:
            log.info("control group %s stays for now: %s", self._folder, error.strerror)
            return False
        return True

    def _events(self) -> dict[str, int]:
        with suppress(OSError):
            pairs = map(str.split, self._files.read(self._folder, "memory.events").splitlines())
            return {name: int(number) for name, number in pairs}
        return {}
