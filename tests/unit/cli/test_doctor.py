"""What `doctor` finds, and that each finding that is wrong says what to do."""

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.doctor import machine, stack
from cli.doctor.finding import Finding, Level
from cli.errors import StackError
from cli.main import run
from cli.models.install import bundled_models
from cli.servers.embedded import SERVERS
from cli.state_dir import StateDir
from shared.models import libraries
from shared.protocol.messages import ModelSpec
from shared.protocol.template_messages import HostModelSpec
from supervisor import health
from supervisor.processes import containment
from supervisor.processes.containment import Kernel
from supervisor.templates.template import TemplateState
from supervisor.templates.templates import TemplateStatus


def _wrong(findings: list[Finding]) -> list[str]:
    return [
        f"{finding.subject}: {finding.text}" for finding in findings if finding.level is Level.WRONG
    ]


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10), Level.WRONG), ((3, 11), Level.OK), ((3, 13), Level.OK), ((3, 14), Level.WRONG)],
)
def test_pythons_outside_the_supported_range_are_wrong(
    version: tuple[int, int], level: Level
) -> None:
    assert machine.python(version).level is level


def test_another_system_than_linux_is_wrong() -> None:
    assert machine.machine("Linux", "x86_64").level is Level.OK
    finding = machine.machine("Darwin", "arm64")
    assert (finding.level, bool(finding.advice)) == (Level.WRONG, True)


@pytest.mark.parametrize(
    ("mode", "abi", "level", "said"),
    [
        ("", 6, Level.OK, "Landlock ABI 6, seccomp"),
        ("", 4, Level.NOTE, "cannot refuse runners ioctl on devices, signals"),
        ("", 0, Level.NOTE, "cannot refuse runners files, "),
        ("require", 4, Level.WRONG, "DF_SANDBOX=require"),
        ("off", 6, Level.NOTE, "not contained"),
    ],
)
def test_what_the_kernel_cannot_keep_from_runners_is_said(
    monkeypatch: pytest.MonkeyPatch, mode: str, abi: int, level: Level, said: str
) -> None:
    kernel = Kernel(landlock_abi=abi, seccomp=True)
    monkeypatch.setattr(containment, "read_kernel", lambda: kernel)
    finding = machine.sandbox({"DF_SANDBOX": mode})
    assert (finding.level, said in finding.text) == (level, True)
    assert bool(finding.advice) == (level is not Level.OK)


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize("found", [[], "Driver Not Loaded", "there is no NVIDIA driver"])
def test_no_gpu_is_a_note_unless_one_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, found: machine.GPUs
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert only(machine.gpu({}, lambda: found)).level is Level.NOTE
    finding = only(machine.gpu({"DF_DEVICE": "cuda"}, lambda: found))
    assert finding.level is Level.WRONG
    assert "DF_DEVICE=cpu" in finding.advice
    assert str(found or "lists none") in finding.text


def test_nvml_decides_and_what_nvidia_smi_says_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker asks NVML; a host on which only nvidia-smi answers is served by the CPU."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Card 1, 24 GiB, 570'\necho 'Card 2, 24 GiB, 570'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    both = [("Card 1", ""), ("Card 2", "")]
    finding = only(machine.gpu({"DF_DEVICE": "cuda"}, lambda: both))
    assert finding == Finding(Level.OK, "GPU", "Card 1, 24 GiB, 570; Card 2, 24 GiB, 570")
    finding = only(machine.gpu({}, lambda: "Driver Not Loaded"))
    assert finding.level is Level.NOTE
    assert "though nvidia-smi lists Card 1" in finding.text
    program.write_text("#!/bin/sh\necho 'driver mismatch'\nexit 9\n")
    finding = only(machine.gpu({}, lambda: both[:1]))
    assert finding == Finding(Level.OK, "GPU", "Card 1, by NVML")


@pytest.mark.parametrize("setting", ["auto", "cuda", "", "cpu"])
def test_a_driver_that_does_not_answer_is_wrong_since_no_worker_starts(setting: str) -> None:
    def ask() -> machine.GPUs:
        raise machine.NoAnswer("Unknown Error")

    finding = only(machine.gpu({"DF_DEVICE": setting}, ask))
    assert finding.level is (Level.NOTE if setting == "cpu" else Level.WRONG)
    assert "Unknown Error" in finding.text


@pytest.mark.parametrize("setting", ["auto", "cuda", "", "cpu"])
def test_a_gpu_that_no_worker_serves_is_not_called_ok(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    environ = {"DF_DEVICE": setting}
    shared, none = machine.gpu(environ, lambda: [("GB10", "NVML does not say its memory")])
    assert (shared.level, shared.text) == (
        Level.NOTE,
        "GB10 is not served: NVML does not say its memory",
    )
    assert none.level is (Level.WRONG if setting == "cuda" else Level.NOTE)
    assert "none can be served" in none.text
    shared, card = machine.gpu(environ, lambda: [("GB10", "why"), ("Card 1", "")])
    assert (shared.level, "Card 1" in card.text) == (Level.NOTE, True)
    assert card.level is (Level.NOTE if setting == "cpu" else Level.OK)


def test_a_package_that_takes_one_of_our_names_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "supervisor-4.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: supervisor\nVersion: 4.3.0\n")
    assert _wrong(list(machine.packages())) == []
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    conflicts = [finding for finding in machine.packages() if finding.level is Level.WRONG]
    assert ["'supervisor'" in finding.text for finding in conflicts] == [True]
    assert "pip uninstall supervisor" in conflicts[0].advice


def test_a_server_that_a_setting_replaces_need_not_be_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In an image none of them is."""

    def absent() -> Path:
        raise StackError("the package is not installed")

    for server in SERVERS:
        monkeypatch.setattr(server, "find_program", absent)
    named = {"DF_DATABASE_URL": "x", "DF_REDIS_URL": "x", "DF_S3_ENDPOINT": "x"}
    assert list(machine.embedded(named)) == []
    assert len(_wrong(list(machine.embedded(named | {"DF_REDIS_URL": ""})))) == 1


def test_a_part_that_does_not_answer_is_wrong_with_address_and_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://:hidden@127.0.0.1:{server.getsockname()[1]}/0"
        assert _wrong(list(stack.parts({"DF_REDIS_URL": url}))) == []
    wrong = _wrong(list(stack.parts({"DF_REDIS_URL": url})))
    assert len(wrong) == 1
    assert "(DF_REDIS_URL)" in wrong[0]
    assert "hidden" not in wrong[0]


def test_a_port_of_another_program_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        environ = {"DF_API_PORT": port, "DF_WORKER_PORT": "x"}
        wrong = _wrong(list(stack.services(environ, running=False)))
    assert len(wrong) == 2
    assert f"port {port} (DF_API_PORT)" in wrong[0]
    assert wrong[1] == "worker: DF_WORKER_PORT is no port number"
    environ = {"DF_API_PORT": "9" * 5000, "DF_WORKER_PORT": "-1"}
    assert len(_wrong(list(stack.services(environ, running=False)))) == 2


def test_a_service_is_asked_where_it_listens() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = str(server.getsockname()[1])
        environ = {"DF_API_HOST": "::1", "DF_API_PORT": port, "DF_WORKER_HOST": "a..b"}
        wrong = _wrong(list(stack.services(environ, running=False)))
    assert f"port {port} (DF_API_PORT)" in wrong[0]  # taken there, and free on 127.0.0.1
    assert wrong[1].startswith("worker: DF_WORKER_HOST: must be a host's name")


def test_a_broken_model_is_named_with_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "sd" / "x@1"
    folder.mkdir(parents=True)
    (folder / "dreamforge.json").write_text("{")
    wrong = _wrong(list(stack.models(tmp_path)))
    assert len(wrong) == 1
    assert str(folder) in wrong[0]
    assert "dreamforge.json" in wrong[0]


def test_an_installation_that_reads_no_weights_checks_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The api's image has no package safetensors."""
    shutil.copytree(bundled_models()[0], tmp_path / "sd" / "demo@1")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (finding,) = stack.models(tmp_path)
    assert finding.level is Level.NOTE
    assert "no package safetensors" in finding.text


@pytest.mark.parametrize(
    ("there", "said", "advice"),
    [
        (True, "ok Package: gguf is installed, which packed@1 needs", ""),
        (False, "note Package: gguf is not installed, and packed@1 needs it", "dreamforge[gguf]"),
    ],
)
def test_a_package_that_only_a_model_here_needs_is_looked_for(
    there: bool, said: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(bundled_models()[0], tmp_path / "sd/packed@1")
    assert not [each for each in stack.models(tmp_path) if each.subject == "Package"]
    monkeypatch.setattr(libraries, "libraries_of", lambda folder, model: (libraries.GGUF,))
    monkeypatch.setattr(libraries, "find_spec", lambda name: folder if there else None)
    (found,) = (each for each in stack.models(tmp_path) if each.subject == "Package")
    assert f"{found.level.value} {found.subject}: {found.text}".startswith(said)
    assert advice in found.advice


def test_no_model_is_only_a_note(tmp_path: Path) -> None:
    assert [finding.level for finding in stack.models(tmp_path)] == [Level.NOTE]


def test_doctor_exits_1_when_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DF_API_PORT", "0")
    monkeypatch.setenv("DF_REDIS_URL", "redis://127.0.0.1:1/0")
    assert run(["doctor"]) == 1
    shown = capsys.readouterr()
    assert "WRONG Broker: Broker at 127.0.0.1:1 (DF_REDIS_URL) cannot be reached" in shown.out
    assert "-> start it, or correct DF_REDIS_URL" in shown.out
    assert not (tmp_path / "home").exists()  # looking changes nothing
    assert StateDir(tmp_path / "home").holder() is None


def test_what_is_warm_is_said_as_the_worker_lists_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = HostModelSpec(
        loader="generate",
        dtype="float32",
        model=ModelSpec(
            id="m", name="m", version="1", kind="sd", folder="/m", checkpoint_sha256="0" * 64
        ),
    )
    listed = [
        TemplateStatus(pid=7, state=TemplateState.READY),
        TemplateStatus(pid=8, state=TemplateState.READY, spec=spec, size_bytes=5 * 10**6),
        TemplateStatus(pid=None, state=TemplateState.STARTING, spec=spec),  # not forked yet
    ]
    body = json.dumps({"templates": [health._template(each) for each in listed]})
    monkeypatch.setattr(stack, "http_get", lambda _address, _path: (200, body))
    assert [finding.text for finding in stack.templates("worker")] == [
        "no model: ready (pid 7)",
        "m@1: ready, 5 MB (pid 8)",
        "m@1: starting",
    ]
