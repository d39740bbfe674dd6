"""What a runner leaves out of its imports, each time in a fresh interpreter as a runner has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.linux import landlock, seccomp
from shared.linux.sandbox import Sandbox

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
LEFT_OUT = {
    "sympy",
    "torch._dynamo.eval_frame",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
}


def run(code: str) -> list[str]:
    """The lines that `code` prints after a runner's imports."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys, torch, runner.session\n{code}"],
        env=ENVIRONMENT | {"TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_runner_loads_neither_the_compiler_nor_what_distributes_a_model() -> None:
    """Not even with every pipeline that there is, which is how `auto` finds one."""
    code = "import diffusers\ndiffusers.AutoPipelineForText2Image\nprint(*sys.modules)"
    loaded = set(run(code)[0].split())
    assert "torch._dynamo" in loaded  # deferred: the module is there, and its code has not run
    assert not loaded & LEFT_OUT


def test_transformers_does_not_read_the_source_of_all_its_models_twice() -> None:
    code = """
kind = lambda: type(sys.modules["transformers.models"]).__name__
import transformers.models.clip as clip
print(kind())
models = sys.modules["transformers.models"]
print(models.bert.BertModel.__name__, models.clip is clip, kind())
"""
    before, after = run(code)
    assert before == "_DeferredPackage"
    assert after == "BertModel True _LazyModule"


@pytest.mark.parametrize(
    "use",
    [
        "torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1))",
        pytest.param("__import__('torch._dynamo.eval_frame')", marks=pytest.mark.slow),
    ],
)
def test_whoever_uses_the_compiler_gets_the_real_one(use: str) -> None:
    code = f"""
{use}
print(torch._dynamo.eval_frame is sys.modules["torch._dynamo.eval_frame"], "sympy" in sys.modules)
try:
    torch._dynamo.nothing
except AttributeError as error:
    print(error)
"""
    assert run(code) == ["True True", "module 'torch._dynamo' has no attribute 'nothing'"]


@pytest.mark.skipif(landlock.abi() == 0, reason="a kernel without Landlock")
def test_a_contained_process_can_import_the_compiler() -> None:
    """As torchvision does. The compiler looks for a folder that it may write; there is none."""
    box = Sandbox(landlock_abi=landlock.abi(), seccomp=seccomp.available(), models="/models")
    code = f"""
from shared.linux import child, sandbox
child.refuse_privileges()
sandbox.{box!r}.enter()
from torch._dynamo.utils import is_compile_supported
print(is_compile_supported("cpu"))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=110
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() in {"True", "False"}
