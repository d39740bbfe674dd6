"""Read the files of a deployment: compose files, manifests, Dockerfiles."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from cli.secret_files import contents
from shared.settings import Settings
from shared.timings import TIMINGS

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION: str = PROJECT["project"]["version"]
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
COMPOSE_FILES = (ROOT / "compose.yaml", *sorted((ROOT / "deploy").glob("compose.*.yaml")))
KUSTOMIZATIONS = (ROOT / "deploy/k3s", ROOT / "deploy/k3s-gpu")

# Files in deploy/k3s that are applied by themselves.
BESIDE = ("model.yaml", "webhooks.yaml")

Named = tuple[str, dict[str, Any]]

SETTINGS = {f"DF_{name.upper()}" for name in Settings.model_fields}
# Only the command line reads them (`tests/unit/project/test_env_example.py`).
COMMAND_LINE = {"DF_HOME", "DF_API_BASE", "DF_API_KEY", "DF_ADMIN_DATABASE_URL"}

_SPAN = re.compile(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?")
# repository[:tag][@digest]; a port belongs to the repository.
_IMAGE = re.compile(
    r"(?P<name>[^@]+?)(?::(?P<tag>[A-Za-z0-9_][\w.-]*))?(?:@(?P<digest>sha256:\w+))?"
)


def documents(text: str) -> list[Any]:
    """What a YAML text holds, by libyaml: all of ours take Python's own parser seconds."""
    return [found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found]


def document(path: Path) -> Any:
    """What a file with one document holds."""
    (found,) = documents(path.read_text(encoding="utf-8"))
    return found


def compose(path: Path = ROOT / "compose.yaml") -> dict[str, Any]:
    found = document(path)
    assert isinstance(found, dict)
    return found


def services() -> list[Named]:
    """Every service of every compose file, by `file: name`."""
    return [
        (f"{path.name}: {name}", service)
        for path in COMPOSE_FILES
        for name, service in compose(path)["services"].items()
    ]


def manifests() -> list[Named]:
    """Every object of Kubernetes, by `file: kind name`; a kustomization and its patch are none."""
    files = document(ROOT / "deploy/k3s/kustomization.yaml")["resources"]
    return [
        (f"{name}: {found['kind']} {_name(found)}", found)
        for name in (*files, *BESIDE)
        for found in documents((ROOT / "deploy/k3s" / name).read_text(encoding="utf-8"))
    ]


def rendered(name: str, folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize deploy/NAME` would apply, by kubectl and from a copy."""
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    for each, secrets in {"k3s": contents(), "k3s-scale": ["scaler_password"]}.items():
        (folder / "deploy" / each / "secrets").mkdir()
        for secret in secrets:
            (folder / "deploy" / each / "secrets" / secret).write_text("x")
    ran = subprocess.run(
        ["kubectl", "kustomize", str(folder / "deploy" / name)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return documents(ran.stdout)


def _name(found: dict[str, Any]) -> str:
    metadata = found["metadata"]
    return str(metadata.get("name") or metadata["generateName"])


def pods() -> list[Named]:
    """The pod's spec of everything that makes pods."""
    return [
        (where, found["spec"]["template"]["spec"])
        for where, found in manifests()
        if found["kind"] in {"Deployment", "StatefulSet", "Job"}
    ]


def pod(kind: str, name: str) -> dict[str, Any]:
    return next(spec for where, spec in pods() if where.endswith(f": {kind} {name}"))


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def images() -> set[str]:
    """Every image that any of the files names, Dockerfiles' bases included."""
    found = {service["image"] for _, service in services() if "image" in service}
    found |= {container["image"] for _, spec in pods() for container in containers(spec)}
    return found | {base for path in DOCKERFILES for base in bases(path)}


def bases(dockerfile: Path) -> set[str]:
    """The base images of a Dockerfile, with its arguments filled in."""
    text = dockerfile.read_text(encoding="utf-8")
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, flags=re.MULTILINE))
    named = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    return {re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], name) for name in named}


def parsed(image: str) -> tuple[str, str | None, str | None]:
    """Name, tag and digest of an image."""
    found = _IMAGE.fullmatch(image)
    assert found, image
    return found["name"], found["tag"], found["digest"]


def seconds(span: str) -> float:
    """A duration as compose files write them, such as `10m` or `1m30s`."""
    found = _SPAN.fullmatch(span)
    assert found and span, span
    return int(found["h"] or 0) * 3600 + int(found["m"] or 0) * 60 + int(found["s"] or 0)


def usual_stop_grace_s() -> float:
    """`Timings.stop_grace_s` with the default of `DF_DRAIN_S`."""
    return TIMINGS.stop_grace_s(Settings.model_fields["drain_s"].default)


def variables(service: dict[str, Any]) -> set[str]:
    """Names of a compose service's environment."""
    return set(service.get("environment", {}))


def set_in(container: dict[str, Any]) -> set[str]:
    """Names of a container's own variables in Kubernetes."""
    return {entry["name"] for entry in container.get("env", ())}
