"""Tiny models of other families than Stable Diffusion 1.x through the real runner."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.support.runner_peer import Peer, run_spec

from shared.models.verify import read_model
from shared.protocol.messages import Artifact, Failure, Log, Progress, Result

# In a process of its own: this one stays free of torch, as a worker is.
BUILD = """
import sys
from pathlib import Path
from tests.support.families import build, describe
from tests.support.single_files import CONVERTERS, convert
for name in sys.argv[2:]:
    folder = Path(sys.argv[1], name)
    build(name, folder)
    if name in CONVERTERS:
        single = folder.with_name(name + "-single")
        convert(name, folder, single)
        describe(single, name)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    families = ("sd", "sdxl", "sd3", "flux", "pixart")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRANSFORMERS_VERBOSITY": "error"}
    subprocess.run([sys.executable, "-c", BUILD, str(root), *families], check=True, env=env)
    return lambda family: root / family


@pytest.mark.parametrize("family", ["sdxl", "sd3", "pixart"])
def test_a_step_of_each_family_runs_to_its_result(
    family: str, model: Callable[[str], Path]
) -> None:
    spec = run_spec(model(family), seed=1, steps=2, prompt="cats " * 100)
    # Beside the usual: tiles of the VAE, and the one attention kernel that every device has.
    preset = spec.preset.model_copy(update={"vae_tiling": True, "attention": "math"})
    with Peer() as peer:
        outcome = peer.go(spec.model_copy(update={"preset": preset})).outcome()
        assert isinstance(outcome, Result), outcome
        (body,) = [body for message, body in peer.seen if isinstance(message, Artifact)]
        assert Image.open(io.BytesIO(body)).size == (64, 64)
        sampled = [m.step for m in peer.all(Progress) if m.stage == "sampling"]
        assert sampled == [0, 1, 2]
        logs = [log for log in peer.all(Log) if log.code == "prompt.truncated"]
        assert not any("cats" in log.message for log in logs)  # the worker's log keeps messages
        cuts = [log.payload or {} for log in logs]
        assert {(cut["field"], cut["reader"]) for cut in cuts} >= {
            ("prompt", "T5" if family == "pixart" else "CLIP")
        }
        assert all(cut["cut"].endswith("cats") for cut in cuts)
        assert peer.exit_code() == 0


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_a_single_file_runs_and_is_named_by_the_hash_of_that_file(
    family: str, model: Callable[[str], Path]
) -> None:
    folder = model(f"{family}-single")
    descriptor = read_model(folder)
    assert (descriptor.kind, descriptor.layout) == (family, "single_file")
    with Peer() as peer:
        outcome = peer.go(run_spec(folder, seed=1, steps=2)).outcome()
        assert isinstance(outcome, Result), outcome
        (body,) = [body for message, body in peer.seen if isinstance(message, Artifact)]
    said = Image.open(io.BytesIO(body)).info
    # By this hash, and not by ours, other tools and sites know a checkpoint.
    whole = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert f"Model hash: {whole[:10]}," in said["parameters"]
    made_with = json.loads(said["dreamforge"])["model"]["checkpoint_sha256"]
    assert made_with == descriptor.checkpoint_sha256


def test_flux_draws_and_refuses_a_negative_prompt(model: Callable[[str], Path]) -> None:
    with Peer() as one, Peer() as other:
        spec = run_spec(model("flux"), seed=1, steps=2)
        assert isinstance(one.go(spec).outcome(), Result)
        assert len(one.all(Artifact)) == 1
        params = spec.params.model_copy(update={"negative_prompt": "a dog"})
        outcome = other.go(spec.model_copy(update={"params": params})).outcome()
        assert isinstance(outcome, Failure)
        assert "no use for a negative_prompt" in outcome.message
        assert not other.all(Artifact)
