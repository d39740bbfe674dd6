"""Leave out of a runner's imports what no runner does: compile models, and share them out.

diffusers and transformers import torch's compiler (`torch._dynamo`, with sympy) to mark functions
for it, and what distributes a model over processes: a third of the CPU time that a runner needs
until it is ready (`benchmarks/imports`). Nothing is taken away:

- A *deferred* package is imported as usual, but its code runs when a name of it is used, as with
  `importlib.util.LazyLoader`. Names that only mark code for the compiler are there at once. Whoever
  compiles after all gets the real compiler. A release that uses another name costs time, no error.
- `torch.distributed.is_available()` is what torch documents for builds without that package.
  The answer is no, and libraries then do without.

Call `leave_out_unused` before the first import of diffusers or transformers.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Deferral:
    """One package whose code waits. `names` are there at once; `runs_for` says which of its
    submodules need its code first."""

    names: Mapping[str, Any] = field(default_factory=dict)
    runs_for: Callable[[str], bool]


def _unmarked(function: Any = None, *_args: Any, **_options: Any) -> Any:
    """A decorator, with arguments or without, that leaves its function as it is."""
    return function if callable(function) else _unmarked


class _Compiled:
    """The class of compiled modules while the compiler is not loaded: there are none."""


DEFERRED = {
    "torch._dynamo": Deferral(
        names={
            "allow_in_graph": _unmarked,
            "assume_constant_result": _unmarked,
            "disable": _unmarked,
            "eval_frame": SimpleNamespace(OptimizedModule=_Compiled),
        },
        # transformers imports this one to mark masks. It needs nothing of the others.
        runs_for=lambda submodule: submodule != "_trace_wrapped_higher_order_op",
    ),
    # Only an index: it reads the source of every model that there is, as `transformers` itself did
    # a moment before.
    "transformers.models": Deferral(runs_for=lambda _submodule: False),
}

_running = threading.RLock()


def leave_out_unused() -> None:
    """Defer what is listed here and not imported yet; a second call changes nothing."""
    if not any(isinstance(finder, _DeferringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _DeferringFinder())
    torch.distributed.is_available = _is_not_available


def _is_not_available() -> bool:
    return False


class _DeferredPackage(ModuleType):
    """A package whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        # Such names are the import system's, which asks for some that no package has.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _run(self)
        return getattr(sys.modules[self.__name__], name)


def _run(package: ModuleType) -> None:
    """Run the code of a deferred package, unless that was done."""
    with _running:
        spec = package.__spec__
        if spec is None or not isinstance(spec.loader, _DeferringLoader):
            return
        spec.loader = package.__loader__ = spec.loader.real
        package.__class__ = ModuleType  # from now on, a name that it lacks is an error
        spec.loader.exec_module(package)
        if sys.modules[package.__name__] is not package:
            # It has put another object in its place. Whoever holds this one is sent on.
            package.__class__ = _DeferredPackage


class _DeferringLoader(Loader):
    def __init__(self, real: Loader, names: Mapping[str, Any]) -> None:
        self.real = real
        self._names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(self._names)
        module.__class__ = _DeferredPackage


class _LoadedLoader(Loader):
    """For a submodule that the code of its package has imported meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _DeferringFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if (deferral := DEFERRED.get(fullname)) is not None:
            return _deferred_spec(fullname, deferral, PathFinder.find_spec(fullname, path, target))
        package, _, submodule = fullname.rpartition(".")
        if package in DEFERRED and DEFERRED[package].runs_for(submodule):
            _run(sys.modules[package])
            if (module := sys.modules.get(fullname)) is not None:
                return ModuleSpec(fullname, _LoadedLoader(module))
        return None


def _deferred_spec(fullname: str, deferral: Deferral, spec: ModuleSpec | None) -> ModuleSpec | None:
    if spec is not None and spec.loader is not None:
        spec.loader = _DeferringLoader(spec.loader, deferral.names)
    return spec
