"""`deploy/k3s-scale`: valid, fits what it changes, and never ends a step that runs."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tests.support.deployment import ROOT, manifests, rendered
from tests.support.scaling import FOLDER, documents, kustomization, objects, query, trigger
from tests.unit.project.test_k3s import KUBERNETES

from cli.secret_files import contents
from shared.timings import TIMINGS

OBJECTS = objects()
OF_KUBERNETES = {name: each for name, each in OBJECTS.items() if "keda" not in each["apiVersion"]}
PATCHES = [found for each in kustomization()["patches"] for found in documents(each["path"])]
WORKER = next(found for found in PATCHES if found["metadata"]["name"] == "worker")
CLASS = tomllib.loads((ROOT / "src/shared/presets_data/gpu-24gb.toml").read_text())


@pytest.mark.parametrize("name", OF_KUBERNETES)
def test_an_object_is_valid_by_kubernetes_own_schema(name: str) -> None:
    kubernetes_validate.validate(OF_KUBERNETES[name], KUBERNETES, strict=True)


def test_every_file_is_part_of_the_kustomization() -> None:
    there = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    added = {name for name in kustomization()["resources"] if name.endswith(".yaml")}
    assert there == added | {each["path"] for each in kustomization()["patches"]}
    assert "../k3s-gpu" in kustomization()["resources"]


def test_a_patch_changes_an_object_that_there_is() -> None:
    there = {(found["kind"], found["metadata"].get("name")) for _, found in manifests()}
    assert {(found["kind"], found["metadata"]["name"]) for found in PATCHES} <= there


def test_what_is_scaled_is_there_and_says_no_number_of_its_own() -> None:
    targets = {
        each["spec"]["scaleTargetRef"]["name"]
        for name, each in OBJECTS.items()
        if name.split()[0] in {"ScaledObject", "HorizontalPodAutoscaler"}
    }
    assert targets == {"api", "worker"}
    fixed = {
        found["metadata"]["name"]: found["spec"] for found in PATCHES if "template" in found["spec"]
    }
    assert {name: spec["replicas"] for name, spec in fixed.items()} == dict.fromkeys(targets)


def test_a_worker_that_is_to_go_ends_its_step_first() -> None:
    """Its drain is as long as a step of the class may take, and the grace as long as both need."""
    pod = WORKER["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain_s = float(
        next(each["value"] for each in container["env"] if each["name"] == "DF_DRAIN_S")
    )
    assert drain_s >= CLASS["timeout_s"]
    assert pod["terminationGracePeriodSeconds"] >= TIMINGS.stop_grace_s(drain_s)
    text = (FOLDER / "worker.yaml").read_text()
    assert f"is {TIMINGS.stop_grace_s(drain_s):g} s" in text


def test_disruptions_take_one_worker_at_a_time_and_leave_an_api() -> None:
    budget = OBJECTS["PodDisruptionBudget worker"]["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, {"matchLabels": {"app": "worker"}})
    assert OBJECTS["PodDisruptionBudget api"]["spec"]["minAvailable"] == 1
    assert OBJECTS["HorizontalPodAutoscaler api"]["spec"]["minReplicas"] >= 2


def test_workers_go_one_after_another_and_may_all_go() -> None:
    spec = OBJECTS["ScaledObject worker"]["spec"]
    assert spec["minReplicaCount"] == 0
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
    assert trigger()["metadata"]["activationTargetQueryValue"] == "0"


def test_the_class_is_that_of_the_preset() -> None:
    assert query().count(f"vram_bytes <= {CLASS['memory_bytes']}") == 2
    assert query().count("device = 'cuda'") == 2


def test_the_password_is_a_secret_of_a_role_that_is_not_the_services() -> None:
    authentication = OBJECTS["TriggerAuthentication scaler"]["spec"]["secretTargetRef"]
    assert authentication == [{"parameter": "password", "name": "scaler", "key": "scaler_password"}]
    (generated,) = kustomization()["secretGenerator"]
    assert generated == {"name": "scaler", "files": ["secrets/scaler_password"]}
    assert trigger()["metadata"]["userName"] not in contents()["df_database_url"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here, which renders it")
def test_kustomize_patches_what_it_is_to(tmp_path: Path) -> None:
    all_of_it = rendered("k3s-scale", tmp_path)
    worker = _deployment(all_of_it, "worker")
    assert "replicas" not in worker and "replicas" not in _deployment(all_of_it, "api")
    assert worker["strategy"]["type"] == "RollingUpdate"
    pod = worker["template"]["spec"]
    assert pod["runtimeClassName"] == "nvidia"
    assert {"name": "locks", "emptyDir": {}} in pod["volumes"]
    (models,) = (each for each in all_of_it if each["kind"] == "PersistentVolumeClaim"
                 and each["metadata"]["name"] == "models")  # fmt: skip
    assert models["spec"]["accessModes"] == ["ReadWriteMany"]


def _deployment(found_in: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (
        each
        for each in found_in
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", name)
    )
    spec = found["spec"]
    assert isinstance(spec, dict)
    return spec
