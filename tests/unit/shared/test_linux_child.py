from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from shared.linux import child

PYTHONPATH = os.pathsep.join(sys.path)


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def test_environment_keeps_the_list_and_nothing_else() -> None:
    environment = {
        "PATH": "/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "CUDA_MPS_PIPE_DIRECTORY": "secret",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "DREAMFORGE_RUNNER": "w1",
        "PYTHONPATH": "src",
        "DF_DATABASE_URL": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "secret",
        "HF_HUB_OFFLINE": "0",
        "PGPASSWORD": "secret",
        "LD_PRELOAD": "evil.so",
    }
    child.scrub(environment)
    assert "secret" not in environment.values()
    assert "LD_PRELOAD" not in environment
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
    assert {"PATH", "HOME", "LC_ALL", "CUDA_VISIBLE_DEVICES", "DREAMFORGE_RUNNER"} <= set(
        environment
    )


def test_runner_with_another_parent_than_it_should_have_leaves_at_once() -> None:
    ran = python("import shared.linux.child as e; e.isolate_process(1 << 22); print('still here')")
    assert (ran.returncode, ran.stdout) == (1, "")


def test_a_runner_gains_nothing_by_a_setuid_program() -> None:
    ran = python(
        "import shared.linux.child as e; e.refuse_privileges()\n"
        "print([line.split() for line in open('/proc/self/status') if 'NoNewPrivs' in line])"
    )
    assert ran.stdout.strip() == "[['NoNewPrivs:', '1']]", ran.stderr


def test_blocked_and_ignored_signals_are_reset() -> None:
    ran = python(
        "import os, signal, shared.linux.child as e\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "e.isolate_process(os.getppid()); print(os.getsid(0) == os.getpid(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM); print('still here', flush=True)"
    )
    assert (ran.returncode, ran.stdout) == (-signal.SIGTERM, "True\n")


def test_runner_dies_with_its_parent() -> None:
    reader, writer = os.pipe()
    code = (
        "import os, sys, time, shared.linux.child as e\n"
        "parent = os.getpid()\n"
        "ready, isolated = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    e.isolate_process(parent); os.write(isolated, b'x'); time.sleep(60); os._exit(0)\n"
        "os.read(ready, 1); os._exit(0)"
    )
    env = {"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], env=env, pass_fds=[writer], timeout=30, check=True)
    os.close(writer)
    readable, _, _ = select.select([reader], [], [], 10)
    assert readable, "the runner outlived its parent"
    assert os.read(reader, 1) == b""  # the last holder of the other end is gone
    os.close(reader)
