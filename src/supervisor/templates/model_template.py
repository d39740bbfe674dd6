"""One template that holds a model: forked, loaded, forked from, ended."""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from shared.errors import ModelUnavailable
from shared.linux.sandbox import folders_of_kind
from shared.models.families import LORA
from shared.models.stamp import Stamp, stamp_of
from shared.protocol.template_messages import HostModelSpec
from shared.threads import OneAtATime
from supervisor.processes.forked import ForkedProcess
from supervisor.templates.template import (
    FORK_WITHIN_S,
    FailureReason,
    Template,
    TemplateFailed,
    TemplateState,
)

log = logging.getLogger(__name__)

# A fork of a template has its imports already.
PREPARE_WITHIN_S = 10.0
# A large model from a slow disk. No step waits for it.
LOAD_WITHIN_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedModel:
    """A model that a step needs on the host, and about how many bytes it takes there."""

    spec: HostModelSpec
    size_bytes: int
    with_loras: bool = False  # the step needs LoRAs besides, which no template loads


class ModelTemplate:
    """`run` it in a task of its own, which closes it; everything else only kills it."""

    def __init__(self, wanted: WantedModel) -> None:
        self.spec = wanted.spec
        self.size_bytes = wanted.size_bytes  # expected at first, then measured
        self.own_bytes = 0  # of these, what is no mapped file
        self.used_at = anyio.current_time()
        self.given_up = False
        self.closed = anyio.Event()
        self._template: Template | None = None
        self._loaded = False
        self._stamp: Stamp = ()
        self._disk = OneAtATime()

    @property
    def state(self) -> TemplateState:
        if self._template is None:
            return TemplateState.STARTING
        if self._template.state is TemplateState.READY and not self._loaded:
            return TemplateState.LOADING  # it could be forked from, but for a load only
        return self._template.state

    @property
    def pid(self) -> int | None:
        """None until it is forked."""
        return None if self._template is None else self._template.pid

    def give_up(self) -> None:
        """End it; `closed` is set when it is gone."""
        self.given_up = True
        if self._template is not None:
            self._template.kill()

    async def run(
        self, fork: Callable[[], Awaitable[Template]], on_ready: Callable[[], None]
    ) -> None:
        """Load the model and stay until it is given up. Raises `TemplateFailed`, and `OSError`
        when the host has no descriptor left, or it ended and cannot be looked at."""
        try:
            self._stamp = await self._read_stamp()
            self._template = template = await fork()
            if self.given_up:
                return
            await template.prepare(PREPARE_WITHIN_S)
            before = template.memory()
            await template.load(self.spec, LOAD_WITHIN_S)
            self.size_bytes, self.own_bytes = (
                max(0, now - then) for now, then in zip(template.memory(), before, strict=True)
            )
            self._loaded = True
            on_ready()
            await template.fail_at_end()
        except (TemplateFailed, OSError):
            if not self.given_up:
                raise
        finally:
            try:
                if self._template is not None:
                    await self._template.close()
            finally:
                self.closed.set()

    async def is_current(self) -> bool:
        """Whether the files are those that were there at its load, and where LoRAs lie as well: a
        place that came later is closed to its forks."""
        return self._stamp == await self._read_stamp()

    async def fork_runner(self, marker: str, environment: Mapping[str, str]) -> ForkedProcess:
        """A runner with the model. Raises `TemplateFailed`, also where the model's files are not
        those any more that were loaded."""
        assert self._template is not None, "it is ready"
        self.used_at = anyio.current_time()
        if not await self.is_current():
            self.give_up()
            raise TemplateFailed(FailureReason.UNAVAILABLE, "the model's files have changed")
        return await self._template.fork("runner", marker, environment)

    async def _read_stamp(self) -> Stamp:
        look = partial(_stamp_of_all, Path(self.spec.model.folder))
        try:
            return await self._disk.run(look, within_s=FORK_WITHIN_S)
        except ModelUnavailable as error:
            raise TemplateFailed(FailureReason.UNAVAILABLE, error.message) from error
        except TimeoutError as error:
            silent = "the model's folder does not answer"
            raise TemplateFailed(FailureReason.UNAVAILABLE, silent) from error
        except OSError as error:
            raise TemplateFailed(FailureReason.FAILED, f"cannot look: {error.strerror}") from error


def _stamp_of_all(folder: Path) -> Stamp:
    """The stamp of a model's folder, and of the places where LoRAs lie; not of what they hold."""
    places = []
    for path in folders_of_kind(str(folder.parent.parent), LORA):
        with suppress(OSError):  # not there
            place = os.stat(path)
            places.append((path, place.st_ino, place.st_dev, 0, 0))
    return stamp_of(folder) + tuple(places)
