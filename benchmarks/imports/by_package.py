"""Import what a runner imports, from the tree that PYTHONPATH names; print its CPU time by package.

`measure.py` runs this. `python -X importtime` does not see what `importlib.import_module` loads,
which is how diffusers and transformers load most of theirs; so the loaders are timed.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from typing import Any

gc.disable()  # as in a runner

# The first that matches. A name ends at a dot, so `torch` is what no line above it takes.
GROUPS = {
    "torch's compiler, with sympy": (
        "torch._dynamo",
        "torch._inductor",
        "torch._functorch",
        "torch.fx.experimental",
        "torch.onnx",
        "sympy",
        "mpmath",
    ),
    "torch.distributed": ("torch.distributed",),
    "torch, the rest": ("torch", "torchgen", "functorch"),
    "transformers' index of its models": (),
    "transformers, the rest": ("transformers", "tokenizers", "safetensors", "regex"),
    "diffusers": ("diffusers",),
    "numpy, Pillow": ("numpy", "PIL"),
    "accelerate": ("accelerate",),
    "clients of the hub": (
        "huggingface_hub",
        "requests",
        "urllib3",
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "h11",
        "jinja2",
        "charset_normalizer",
    ),
    "pydantic, jsonschema": (
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_inspection",
        "jsonschema",
        "jsonschema_specifications",
        "referencing",
        "rpds",
        "attr",
        "attrs",
    ),
    "ours": ("runner", "shared"),
}
# Their code is short; what takes time is that each reads the source of every model.
INDEXES = {"transformers", "transformers.models"}

spent_s: Counter[str] = Counter()
open_calls: list[float] = []  # seconds spent by what each began


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Charge what `method` takes to its module, without what it imports itself."""

    def call(self: Any, subject: Any) -> Any:
        name = getattr(subject, "__name__", None) or subject.name
        open_calls.append(0.0)
        began = time.process_time()
        try:
            return method(self, subject)
        finally:
            took = time.process_time() - began
            spent_s[name] += took - open_calls.pop()
            if open_calls:
                open_calls[-1] += took

    return call


def group_of(module: str) -> str:
    if module in INDEXES:
        return "transformers' index of its models"
    for group, names in GROUPS.items():
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return group
    return "everything else"


def main() -> None:
    SourceFileLoader.exec_module = timed(SourceFileLoader.exec_module)  # type: ignore[method-assign]
    ExtensionFileLoader.create_module = timed(ExtensionFileLoader.create_module)  # type: ignore[method-assign]
    ExtensionFileLoader.exec_module = timed(ExtensionFileLoader.exec_module)  # type: ignore[method-assign]
    began = time.process_time()
    import runner.session  # noqa: F401 - timed

    whole_s = time.process_time() - began
    groups_ms = dict.fromkeys([*GROUPS, "everything else"], 0.0)
    for module, seconds in spent_s.items():
        groups_ms[group_of(module)] += seconds * 1000
    sys.stdout.write(json.dumps(groups_ms | {"all": whole_s * 1000}))


if __name__ == "__main__":
    main()
