"""`dreamforge model download` through the real hub library, against a hub on loopback."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from tests.support.hub import COMMIT, REPO, Hub, serving

from cli.download import retry
from cli.main import run
from cli.models.install import bundled_models
from shared.models.verify import read_model, verify_model

Command = Callable[..., int]
REF = f"hf:{REPO}"
SECRET = "hf_a_token_that_must_not_be_seen"
UNET = "unet/diffusion_pytorch_model.safetensors"
KEY = f"small-model@{COMMIT[:12]}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub.of(bundled_models()[0])) as hub:
        del hub.files["dreamforge.json"]
        yield hub


@pytest.fixture
def download(
    stack_environment: dict[str, str], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DF_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    # Another test may have loaded the library before; the command sets this before it does.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)
    return lambda *arguments: run(["model", "download", *arguments])


def installed(root: Path) -> Path:
    place = root / "sd" / KEY
    verify_model(place, read_model(place))
    assert not list((root / ".staging").iterdir())
    return place


def nothing_installed(root: Path) -> bool:
    return not (root / "sd").exists()


def large_requests(hub: Hub) -> list[tuple[str, str, str | None, str | None]]:
    return [seen for seen in hub.seen if seen[0] == "cdn"]


def test_a_repository_is_installed_pinned_to_its_commit(
    download: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download(REF, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "sd"
    descriptor = read_model(installed(tmp_path))
    assert (descriptor.source.uri, descriptor.source.revision) == (REF, COMMIT)
    assert descriptor.license == "mit"


def test_the_second_download_fetches_nothing(download: Command, hub: Hub, tmp_path: Path) -> None:
    assert download(REF) == 0
    before = [seen for seen in hub.seen if "/api/" not in seen[1]]
    assert download(REF) == 0
    assert [seen for seen in hub.seen if "/api/" not in seen[1]] == before


def test_a_damaged_model_is_fetched_again(download: Command, tmp_path: Path) -> None:
    assert download(REF) == 0
    (tmp_path / "sd" / KEY / UNET).write_bytes(b"damage")
    assert download(REF) == 0
    installed(tmp_path)


def test_the_token_goes_to_the_hub_only_and_into_no_file_or_line(
    download: Command, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download(REF) == 0
    assert {seen[2] for seen in hub.seen if seen[0] == "hub"} == {f"Bearer {SECRET}"}
    assert {seen[2] for seen in large_requests(hub)} == {None}
    hub.gated = True
    assert download(REF, "--name", "other") == 2
    output = capsys.readouterr()
    assert SECRET not in output.out + output.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_a_file_cut_every_64_kib_arrives_by_ranges(
    download: Command, hub: Hub, tmp_path: Path
) -> None:
    hub.cut_bytes = 1 << 16
    assert download(REF) == 0
    ranges = [seen[3] for seen in large_requests(hub) if seen[1].endswith(UNET)]
    assert ranges[:2] == [None, "bytes=65536-"]
    installed(tmp_path)


def test_a_file_that_changes_between_ranges_is_begun_again(
    download: Command, hub: Hub, tmp_path: Path
) -> None:
    hub.etags = (f'"{number}"' for number in itertools.count())
    hub.cut_bytes = 1 << 20
    assert download(REF) != 0  # each answer is another file, so none can be put together
    assert nothing_installed(tmp_path)
    hub.cut_bytes = 0
    assert download(REF) == 0
    installed(tmp_path)


def test_busy_answers_are_waited_out(download: Command, hub: Hub, tmp_path: Path) -> None:
    hub.refusals = [503, 429, 500, 503]
    assert download(REF) == 0
    installed(tmp_path)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"gated": True}, "set HF_TOKEN"),
        ({"html": True}, "sent a web page; most likely it wants a sign-in"),
        ({"changed": {UNET: b"x" * 10}}, "sent 10 bytes instead of"),
        ({"refusals": [503] * 1000}, "answered 503"),
    ],
)
def test_a_bad_answer_installs_nothing_and_is_named(
    download: Command,
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: dict[str, object],
    says: str,
) -> None:
    for name, value in fault.items():
        setattr(hub, name, value)
    assert download(REF) in (2, 3)
    assert says in capsys.readouterr().err
    assert nothing_installed(tmp_path)


@pytest.mark.parametrize("path", [UNET, "unet/config.json"])
def test_other_content_of_the_same_length_is_refused(
    download: Command, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    hub.changed = {path: hub.files[path][:-1] + b"\xff"}
    assert download(REF) == 2
    assert path in capsys.readouterr().err
    assert nothing_installed(tmp_path)


def a_zip() -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04.")
    return content.getvalue()


@pytest.mark.parametrize(
    "content", [a_zip(), struct.pack("<Q", 10 << 30) + b"{}"], ids=["pickle in a zip", "10 GB"]
)
def test_what_only_calls_itself_safetensors_is_refused_though_its_hash_is_right(
    download: Command,
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:
    hub.files[UNET] = content
    assert download(REF) == 2
    assert f"{UNET}: not a sound safetensors file" in capsys.readouterr().err
    assert nothing_installed(tmp_path)


@pytest.mark.parametrize("path", ["../escaped.json", "/tmp/escaped.json", "unet/../../e.json"])
def test_a_listed_path_that_leaves_the_folder_is_refused(
    download: Command, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    hub.files[path] = b"{}"
    assert download(REF, "--include", "*") == 2
    assert "leaves the model's folder" in capsys.readouterr().err
    assert not list(tmp_path.parent.glob("escaped.json"))


def test_pickles_are_left_out_and_refused_with_the_reason_when_asked_for(
    download: Command, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["unet/weights.ckpt"] = b"\x80\x04."
    assert download(f"{REF}#unet/*") == 2
    assert "a pickle, which can run any code" in capsys.readouterr().err
    assert download(REF) == 0
    assert "left out: " in capsys.readouterr().err
    assert not (installed(tmp_path) / "unet/weights.ckpt").exists()


def test_names_beyond_ascii_arrive(download: Command, hub: Hub, tmp_path: Path) -> None:
    hub.files["Lies mich, Größe 1.md"] = b"x"
    assert download(REF) == 0
    assert (installed(tmp_path) / "Lies mich, Größe 1.md").read_bytes() == b"x"


def test_files_that_differ_by_case_only_are_refused(
    download: Command, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["readme.MD"] = b"x"
    assert download(REF) == 2
    assert "listed twice" in capsys.readouterr().err


def test_an_address_needs_the_hash_of_what_it_holds(
    download: Command, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{hub.cdn_url}/{UNET}"
    assert download(address) == 2
    assert "append #sha256=" in capsys.readouterr().err
    assert download(f"{address}#sha256={'0' * 64}") == 2
    assert "not the one that was published" in capsys.readouterr().err
    right = hashlib.sha256(hub.files[UNET]).hexdigest()
    assert download(f"{address}#sha256={right}") == 2  # the bytes are proven, but not a model
    assert "not the one" not in capsys.readouterr().err


def test_a_source_that_nobody_brought_is_named(
    download: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("ftp:x") == 2
    assert "there are civitai:, file:, hf:, http:, https:" in capsys.readouterr().err


def test_another_package_brings_a_source_by_entry_point(
    download: Command, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    metadata = site / "foreign-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[dreamforge.model_sources]\nmirror = foreign_source:resolve\n"
    )
    (site / "foreign_source.py").write_text(
        "from dataclasses import replace\n"
        "from cli.download import huggingface\n"
        "def resolve(reference):\n"
        "    resolved = huggingface.resolve(reference)\n"
        "    return replace(resolved, uri='mirror:' + reference.rest)\n"
    )
    monkeypatch.syspath_prepend(str(site))
    assert download(f"mirror:{REPO}") == 0
    assert read_model(tmp_path / "sd" / KEY).source.uri == f"mirror:{REPO}"


# Brings the model once for each line that it reads: how many seconds after the hub's answer the
# process that does so is killed, or nothing. Says how long that process lived from then.
BRING = """
import os, signal, sys, time
from pathlib import Path
from cli.download import huggingface, model_download
from cli.download.model_download import DownloadRequest, download
from cli.download.progress import ProgressLines
from cli.download.source import Reference

model_download.refuse_misfit = lambda folder: None  # each round would start a process with torch
root, reference = Path(sys.argv[1]), Reference(scheme="hf", rest=sys.argv[2])
huggingface.resolve(reference)  # imports what it needs, once for all rounds
for line in sys.stdin:
    ready, resolved = os.pipe()
    child = os.fork()
    if not child:
        request = DownloadRequest(resolved=huggingface.resolve(reference), name="m", version="1",
                                  choose_preset=lambda model: "cpu")
        os.write(resolved, b"!")
        download(request, root, ProgressLines(), lambda place: place)
        os._exit(0)
    os.read(ready, 1)
    begun = time.monotonic()
    if line.strip():
        time.sleep(float(line))
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(time.monotonic() - begun, flush=True)
"""


@pytest.fixture
def bring(download: Command, tmp_path: Path) -> Iterator[Callable[[str], float]]:
    """Bring the model in a process of its own; the kill of it is `BRING`'s to explain."""
    with subprocess.Popen(
        [sys.executable, "-c", BRING, str(tmp_path), REPO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        delays, results = process.stdin, process.stdout

        def bring(kill_after_s: str) -> float:
            delays.write(f"{kill_after_s}\n")
            delays.flush()
            return float(results.readline())

        yield bring
        delays.close()


@pytest.mark.slow
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing another revision"])
def test_fifty_kills_leave_no_half_model_and_the_next_download_completes(
    hub: Hub, tmp_path: Path, bring: Callable[[str], float], replacing: bool
) -> None:
    moments = random.Random(11)
    place = tmp_path / "sd" / "m@1"
    whole_s = bring("")
    finished = 0
    for number in range(50):
        if replacing:
            hub.commit = f"{number:040x}"
        else:
            shutil.rmtree(place, ignore_errors=True)  # so that this round has work
        bring(str(moments.uniform(0, 1.5 * whole_s)))
        assert place.exists() or not replacing
        if place.exists():
            model = read_model(place)
            verify_model(place, model)
            finished += model.source.revision == hub.commit
    assert 0 < finished < 50, "every kill came too early, or too late"
    bring("")
    verify_model(place, read_model(place))
    assert read_model(place).source.revision == hub.commit
    assert not list((tmp_path / ".staging").iterdir())


# What the hub says --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"without": ("lfs", "blobId")}, "names no hash of it"),
        ({"commit": "main"}, "does not say which commit"),
        ({"api": [(200, b"<html>", {"Content-Type": "text/html"})] * 9}, f"{REPO}: "),
        ({"api": [(503, b"", {})] * 99}, "answered 503"),
        ({"repositories": ()}, "is not there, or it is private"),
    ],
)
def test_a_hub_that_proves_nothing_installs_nothing_and_is_a_line(
    download: Command,
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    says: str,
) -> None:
    for name, value in change.items():
        setattr(hub, name, value)
    assert download(REF) in (2, 3)
    output = capsys.readouterr().err
    assert says in output
    assert "Traceback" not in output
    assert nothing_installed(tmp_path)


def test_a_busy_hub_is_waited_for(download: Command, hub: Hub, tmp_path: Path) -> None:
    hub.api = [(503, b"", {}), (429, b"", {}), (500, b"", {})]
    assert download(REF) == 0
    installed(tmp_path)


def test_a_hub_that_cannot_be_reached_is_a_line(
    download: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert download(REF) == 3
    assert "cannot reach http://127.0.0.1:1" in capsys.readouterr().err


def test_a_card_with_several_licences_is_no_crash(
    download: Command, hub: Hub, tmp_path: Path
) -> None:
    hub.card = {"license": ["mit", "other"]}
    assert download(REF) == 0
    assert read_model(installed(tmp_path)).license == "mit, other"


def test_a_pattern_leaves_files_out_and_too_few_are_no_model(
    download: Command, hub: Hub, tmp_path: Path
) -> None:
    assert download(REF, "--exclude", "LICENSE*", "--exclude", "*.md") == 0
    assert not list(installed(tmp_path).glob("LICENSE*"))
    assert download(f"{REF}#unet/*") == 2
    assert [path.name for path in tmp_path.glob("[!.]*/*@*")] == [KEY]


@pytest.mark.slow
def test_two_downloads_of_one_model_wait_for_each_other(
    hub: Hub, tmp_path: Path, download: Command
) -> None:
    command = [sys.executable, "-m", "cli", "model", "download", REF]
    both = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    installed(tmp_path)
    first = [path for _, path, _, byte_range in large_requests(hub) if byte_range is None]
    assert len(first) == len(set(first)), "a file was fetched by both"


def test_as_many_files_at_a_time_as_asked_for_and_no_more(
    download: Command, hub: Hub, tmp_path: Path
) -> None:
    """The hub answers when as many wait as were asked for, or a moment after no more came."""
    hub.together = threading.Barrier(2)
    assert download(REF, "--parallel", "2") == 0
    assert hub.most_at_once == 2
    installed(tmp_path)
