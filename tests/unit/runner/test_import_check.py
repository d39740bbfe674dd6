"""What looks at a stranger's model at an import has a runner's sandbox, if the kernel has one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.linux import landlock, seccomp

# The library that would read the model is replaced by one that does what no library should.
HOSTILE = """
import os, socket, subprocess, sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

def tried(folder):
    here, elsewhere = Path(folder), Path(sys.argv[2])
    attempts = {
        "read a secret": lambda: elsewhere.read_text(),
        "write beside it": lambda: elsewhere.with_name("new").write_text("x"),
        "write into the model": lambda: (here / "new").write_text("x"),
        "start a process": lambda: subprocess.run(["/bin/true"], check=True),
        "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "find a secret in the environment": lambda: os.environ["DF_S3_SECRET_KEY"],
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, KeyError):
            continue
        yield name

class Unchecked(Exception): ...
class NotRecognised(Exception): ...

def describe_network(file):
    from shared.errors import ModelUnavailable
    assert file.read_text() == "weights"
    raise ModelUnavailable(",".join(tried(file.parent)))

library = ModuleType("library")
library.misfits = lambda folder: list(tried(folder))
library.describe_network = describe_network
library.Unchecked, library.NotRecognised = Unchecked, NotRecognised
sys.modules["torch"] = SimpleNamespace(set_num_threads=lambda number: None)
sys.modules["runner.diffusion.fit"] = sys.modules["runner.upscalers.networks"] = library
"""


@pytest.mark.skipif(
    landlock.abi() == 0 or not seccomp.available(), reason="the kernel has no Landlock or seccomp"
)
@pytest.mark.parametrize("check", ["fit_check", "network_check"])
def test_what_reads_a_strangers_model_can_do_nothing_else(tmp_path: Path, check: str) -> None:
    folder, secret = tmp_path / "model", tmp_path / "elsewhere" / "secret"
    for file, text in ((folder / "file", "weights"), (secret, "secret")):
        file.parent.mkdir()
        file.write_text(text)
    link = tmp_path / "link"  # files are read where they lie, and named as they are given
    link.symlink_to(folder / "file")
    named = folder if check == "fit_check" else link
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{HOSTILE}\nfrom runner.{check} import main\nmain(Path(sys.argv[1]))",
            str(named),
            str(secret),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "DF_S3_SECRET_KEY": "s"},
    )
    answer = json.loads(ran.stdout)
    assert answer.get("misfits", answer.get("refused")) in ([], "")
