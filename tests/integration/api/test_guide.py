"""`docs/api.md` is executed: every snippet, in its order, against an API with a real worker.

The tests share one job and the order of this file, as a reader does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tests.support.api_harness import Api, running_api
from tests.support.database import migrate_and_empty
from tests.support.infrastructure import Infrastructure
from tests.support.tiny_model import register_tiny_model

from cli.models.install import register
from shared.auth import parse_api_keys
from shared.models.describe import DescriptorInput
from shared.models.describe_lora import describe_lora
from shared.models.descriptor import Source
from shared.models.folder import ONE_FILE
from shared.models.verify import write_descriptor

pytestmark = pytest.mark.timeout(240)

GUIDE = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")
BASE = "http://127.0.0.1:8001"
SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
# As the page has them: section, language.
SNIPPETS = [
    ("Create", "sh"),
    ("Watch", "sh"),
    ("Watch", "sh"),
    ("Fetch", "sh"),
    ("Send a picture", "sh"),
    ("Start from a picture", "sh"),
    ("LoRAs", "sh"),
    ("Enlarge", "sh"),
    ("The same in Python", "python"),
    ("From OpenAI's clients", "python"),
    ("Cancel", "sh"),
    ("Webhooks", "python"),
    ("Look back", "sh"),
    ("Delete", "sh"),
    ("Usage", "sh"),
    ("Usage", "sh"),
    ("Workers", "sh"),
    ("Dead letters", "sh"),
    ("Keys", "sh"),
    ("Keys", "sh"),
]


def blocks(title: str, language: str) -> list[str]:
    """The fenced blocks of a section; a language of "" is the plain ones."""
    section = re.split(r"^## ", GUIDE, flags=re.MULTILINE)
    (body,) = [text for text in section if text.startswith(f"{title}\n")]
    return re.findall(rf"^```{language}\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)


@dataclass
class Reader:
    """A reader of the guide at a terminal."""

    api: Api
    folder: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": os.environ["PATH"]})

    def sh(self, title: str, number: int = 0, *, base: str | None = None) -> str:
        """What the snippet prints."""
        script = blocks(title, "sh")[number].replace(BASE, base or self.api.base)
        return self.run(["bash", "-euo", "pipefail", "-c", script])

    def python(self, title: str) -> str:
        (script,) = blocks(title, "python")
        assert BASE in script
        return self.run([sys.executable, "-c", script.replace(BASE, self.api.base)])

    def run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def reader(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("guide")
    url = stack.environment["DF_DATABASE_URL"]
    migrate_and_empty(url)
    register_tiny_model(folder / "models", url)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    ours = {"DF_MODELS_DIR": str(folder / "models"), "DF_LOCK_DIR": str(folder / "locks")}
    ours |= {"DF_WORKER_PORT": "0", "DF_DEVICE": "cpu", "DF_DRAIN_S": "0"}
    log = folder / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor"],
            env=inherited | stack.environment | ours,
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        webhooks = {"webhook_secrets": f"default:{SECRET}", "webhook_private": "127.0.0.1/32"}
        with running_api(stack.environment, **webhooks) as api:
            yield Reader(api, folder)
            assert worker.poll() is None, log.read_text()
    finally:
        worker.terminate()
        worker.wait(60)


def keys_of(value: Any) -> Any:
    """The form of a JSON value: its names, and the form of what they name."""
    match value:
        case dict():
            return {name: keys_of(inner) for name, inner in value.items()}
        case list():
            return [keys_of(inner) for inner in value[:1]]
        case _:
            return None


def test_every_snippet_of_the_page_is_run() -> None:
    titles = re.findall(r"^## (.+)$", GUIDE, flags=re.MULTILINE)
    snippets = [
        (title, language)
        for title in titles
        for language in re.findall(r"^```(sh|python)$", section(title), flags=re.MULTILINE)
    ]
    assert snippets == SNIPPETS


def section(title: str) -> str:
    return GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_create_answers_as_the_page_shows(reader: Reader) -> None:
    created = json.loads(reader.sh("Create"))
    (shown,) = blocks("Create", "json")
    assert keys_of(created) == keys_of(json.loads(shown))
    assert created["job"]["status"] == "queued"
    reader.environ["JOB"] = created["job"]["id"]
    assert json.loads(reader.sh("Create")) == created  # the same key: the first answer again


def test_watch_shows_the_job_to_its_end(reader: Reader) -> None:
    lines = reader.sh("Watch").splitlines()
    first, second = reader.sh("Watch", 1).replace("}{", "}\n{").splitlines()
    assert json.loads(first)["status"] == "succeeded"
    assert json.loads(second)["job"]["status"] == "succeeded"
    ids = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert ids == list(range(1, len(ids) + 1))
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data:")]
    data = [event for event in data if "image" not in event]  # previews are no events of the job
    assert [event["code"] for event in data][-2:] == ["job.finish", "progress"]
    assert data[-1]["payload"]["progress"] == 1.0
    shown = json.loads(re.findall(r"^data: (.+)$", section("Watch"), flags=re.MULTILINE)[0])
    # The last one has every name, and is of no item.
    reports = [event for event in data[:-1] if event["code"] == "progress"]
    of_items = [event for event in reports if event["item_index"] is not None]
    assert of_items
    assert all(keys_of(event) == keys_of(shown) for event in of_items)


def test_fetch_lists_pictures_that_can_be_fetched(reader: Reader) -> None:
    artifacts = json.loads(reader.sh("Fetch"))["artifacts"]
    (shown,) = json.loads(blocks("Fetch", "json")[0])["artifacts"]
    assert shown.keys() <= artifacts[0].keys()
    assert [each["seed"] for each in artifacts] == [42, 43]  # as the page says of `seed`
    assert artifacts[0]["seed"] == shown["seed"]
    picture = reader.api.client.get(artifacts[0]["url"]).content
    assert hashlib.sha256(picture).hexdigest() == artifacts[0]["sha256"]


def test_a_picture_is_sent(reader: Reader) -> None:
    Image.new("RGB", (64, 48)).save(reader.folder / "photo.jpg")
    sent = json.loads(reader.sh("Send a picture"))["input"]
    assert (sent["format"], sent["width"], sent["height"]) == ("jpg", 64, 48)
    reader.environ["INPUT"] = sent["id"]


def test_a_job_starts_from_the_picture(reader: Reader) -> None:
    job = json.loads(reader.sh("Start from a picture"))["job"]["id"]
    shown = reader.api.client.get(f"/v1/jobs/{job}", params={"wait": 60}, timeout=70).json()
    assert shown["status"] == "succeeded"


def test_loras_are_listed_with_their_family(reader: Reader, stack: Infrastructure) -> None:
    folder = reader.folder / "paper-cut"
    folder.mkdir()
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    halves = {"down": np.ones((2, 8), np.float32), "up": np.ones((8, 2), np.float32)}
    tensors = {f"{layer}.lora_{half}.weight": numbers for half, numbers in halves.items()}
    save_file(tensors, folder / ONE_FILE)
    given = DescriptorInput(name="paper-cut", version="1", source=Source(uri="tests"))
    write_descriptor(folder, describe_lora(folder, given))
    register(stack.environment["DF_DATABASE_URL"], folder)
    assert reader.sh("LoRAs").split() == ["paper-cut", "sd"]


def test_enlarge_makes_a_job_of_two_steps(reader: Reader) -> None:
    job = json.loads(reader.sh("Enlarge"))["job"]["id"]
    steps = reader.api.client.get(f"/v1/jobs/{job}").json()["steps"]
    assert [step["name"] for step in steps] == ["generate", "upscale"]
    reader.api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()


def test_the_python_program_saves_a_picture(reader: Reader) -> None:
    *percents, name = reader.python("The same in Python").splitlines()
    assert percents[-1] == "100%"
    assert name == "0_42.png"
    assert (reader.folder / name).read_bytes().startswith(b"\x89PNG\r\n")


def test_a_program_of_openai_saves_a_picture(reader: Reader) -> None:
    assert reader.python("From OpenAI's clients") == ""
    assert (reader.folder / "apple.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_cancel_shows_the_job_as_it_is(reader: Reader) -> None:
    shown = json.loads(reader.sh("Cancel"))
    assert (shown["id"], shown["status"]) == (reader.environ["JOB"], "succeeded")


def test_the_receiver_of_a_webhook_verifies_and_prints_it(reader: Reader) -> None:
    (script,) = blocks("Webhooks", "python")
    (shown, *_) = blocks("Webhooks", "json")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = reader.environ | {"WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environ, cwd=reader.folder,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as receiver:  # fmt: skip
        try:
            body = json.loads(shown)
            body["webhook"]["url"] = f"http://127.0.0.1:{port}/"
            assert reader.api.client.post("/v1/jobs", json=body).status_code == 202
            assert receiver.stdout is not None
            said = [receiver.stdout.readline() for _ in range(3)]
        finally:
            receiver.kill()
    assert said == ["job.start running\n", "job.artifact running\n", "job.end succeeded\n"]


def test_look_back_lists_and_reads(reader: Reader) -> None:
    listed, *log = reader.sh("Look back").replace("}{", "}\n{").splitlines()
    assert json.loads(listed) == {"jobs": [], "next_cursor": None}  # none has failed
    assert all(json.loads(line)["level"] in {"WARNING", "ERROR"} for line in log)


def test_delete_leaves_no_job(reader: Reader) -> None:
    assert reader.sh("Delete") == ""
    assert reader.api.client.get(f"/v1/jobs/{reader.environ['JOB']}").status_code == 404


def test_usage_has_the_jobs_of_this_page(reader: Reader) -> None:
    used = json.loads(reader.sh("Usage"))
    shown, of_the_hour = blocks("Usage", "json")
    assert keys_of(used) == keys_of(json.loads(shown))
    assert json.loads(reader.sh("Usage", 1)).keys() == json.loads(of_the_hour).keys()
    rows = used["usage"]
    assert sum(row["jobs"]["succeeded"] for row in rows) >= 2
    assert sum(row["pictures"] for row in rows) >= 3
    assert all(row["run_seconds"] > 0 for row in rows if row["pictures"])


def test_the_worker_of_this_page_is_shown(reader: Reader) -> None:
    found = json.loads(reader.sh("Workers"))
    (worker,) = found["workers"]
    (shown,) = blocks("Workers", "json")
    (expected,) = json.loads(shown)["workers"]
    assert worker.keys() == expected.keys()
    assert worker["slots"][0].keys() == expected["slots"][0].keys()


def test_dead_letters_are_listed(reader: Reader) -> None:
    found = json.loads(reader.sh("Dead letters"))
    (shown,) = blocks("Dead letters", "json")
    assert found.keys() == json.loads(shown).keys()


def test_a_key_is_made_and_shown(reader: Reader, stack: Infrastructure) -> None:
    ask, make = blocks("Keys", "sh")
    made = reader.run(["bash", "-euo", "pipefail", "-c", make + 'echo "$KEY"'])
    setting, key = made.split()
    ((name, sha256),) = [(k.name, k.sha256) for k in parse_api_keys(setting.partition("=")[2])]
    assert (name, sha256) == ("shop", hashlib.sha256(key.encode()).digest())
    with running_api(stack.environment, api_keys=setting.partition("=")[2]) as keyed:
        reader.environ["DF_API_KEY"] = key
        assert json.loads(reader.sh("Keys", base=keyed.base)) == {"jobs": [], "next_cursor": None}
        reader.environ["DF_API_KEY"] = "another"
        assert json.loads(reader.sh("Keys", base=keyed.base))["code"] == "unauthorized"
    assert BASE in ask
