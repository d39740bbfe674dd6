"""The manifests in `deploy/k3s` are valid, agree with the code, and allow no more than needed."""

from __future__ import annotations

import shutil
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import example, given
from hypothesis.strategies import ip_addresses
from tests.support.deployment import (
    BESIDE,
    KUSTOMIZATIONS,
    ROOT,
    SETTINGS,
    containers,
    document,
    manifests,
    pod,
    pods,
    rendered,
    set_in,
    usual_stop_grace_s,
)
from tests.support.routes import api_routes, worker_routes

from api.webhooks.addresses import is_allowed
from cli.secret_files import KEY, contents
from shared.settings import Settings

# One that K3S is at, give or take a release; the kinds used here are older than all of them.
KUBERNETES = "1.34.0"
BASE, GPU = (document(path / "kustomization.yaml") for path in KUSTOMIZATIONS)
FILES = contents()
PATCH = document(ROOT / "deploy/k3s-gpu/worker.yaml")
ALL = list(manifests())
POLICIES = {
    found["metadata"]["name"]: found["spec"] for _, found in ALL if found["kind"] == "NetworkPolicy"
}


@pytest.mark.parametrize(("where", "found"), ALL, ids=[where for where, _ in ALL])
def test_a_manifest_is_valid_by_kubernetes_own_schema(where: str, found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here, which renders it")
@pytest.mark.parametrize("name", ["k3s", "k3s-gpu", "k3s-scale"])
def test_what_kustomize_renders_is_valid_in_one_namespace(name: str, tmp_path: Path) -> None:
    found = rendered(name, tmp_path)
    for each in found:
        if "keda" not in each["apiVersion"]:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    (namespace,) = (each["metadata"]["name"] for each in found if each["kind"] == "Namespace")
    others = [each["metadata"]["namespace"] for each in found if each["kind"] != "Namespace"]
    assert set(others) == {namespace}
    assert {"api", "worker"} <= {
        each["metadata"]["name"] for each in found if each["kind"] == "Deployment"
    }


def test_every_file_is_part_of_the_kustomization_or_says_that_it_is_none() -> None:
    there = {path.name for path in (ROOT / "deploy/k3s").glob("*.yaml")}
    assert there == {*BASE["resources"], *BESIDE, "kustomization.yaml"}
    for name in BESIDE:
        text = (ROOT / "deploy/k3s" / name).read_text(encoding="utf-8")
        assert "no part of the kustomization" in text.lower()
        assert f"--filename deploy/k3s/{name}" in text


def test_the_overlay_for_a_gpu_changes_the_worker_alone() -> None:
    assert GPU["resources"] == ["../k3s"] and GPU["patches"] == [{"path": "worker.yaml"}]
    assert (PATCH["kind"], PATCH["metadata"]["name"]) == ("Deployment", "worker")
    spec = PATCH["spec"]["template"]["spec"]
    assert spec["runtimeClassName"] == "nvidia"
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["env"] == [{"name": "DF_DEVICE", "value": "cuda"}]


def test_every_variable_of_ours_is_a_setting() -> None:
    (literals,) = (found["literals"] for found in BASE["configMapGenerator"])
    names = {literal.partition("=")[0] for literal in literals}
    for _, spec in pods():
        names |= {name for found in containers(spec) for name in set_in(found)}
    assert {name for name in names if name.startswith("DF_")} <= SETTINGS


def test_api_and_worker_have_a_whole_configuration() -> None:
    (literals,) = (found["literals"] for found in BASE["configMapGenerator"])
    shared = dict(literal.split("=", 1) for literal in literals)
    secrets = _generated()["settings"]
    for name in ("api", "worker"):
        (container,) = pod("Deployment", name)["containers"]
        own = {entry["name"]: entry["value"] for entry in container["env"]}
        given = shared | own | {secret.upper(): FILES[secret] for secret in secrets}
        Settings.model_validate({key[3:].lower(): value for key, value in given.items()})


def test_secrets_are_made_from_files_of_the_generator_and_none_is_in_the_repository() -> None:
    for files in _generated().values():
        assert files <= FILES.keys() - {KEY}
    assert not [where for where, found in ALL if found["kind"] == "Secret"]
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_every_secret_that_a_pod_names_is_generated() -> None:
    for where, spec in pods():
        for volume in spec.get("volumes", ()):
            if "secret" in volume:
                assert volume["secret"]["secretName"] in _generated(), where
        for container in containers(spec):
            for entry in container.get("env", ()):
                reference = entry.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or reference["key"] in _generated()[reference["name"]]


def _generated() -> dict[str, set[str]]:
    return {
        found["name"]: {file.removeprefix("secrets/") for file in found["files"]}
        for found in BASE["secretGenerator"]
    }


def test_the_worker_is_given_the_time_that_it_may_need_to_stop() -> None:
    grace = pod("Deployment", "worker")["terminationGracePeriodSeconds"]
    assert grace >= usual_stop_grace_s()


def test_the_old_worker_is_gone_before_the_new_one_wants_its_gpu() -> None:
    (worker,) = (found for where, found in ALL if where.endswith("Deployment worker"))
    assert worker["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(("name", "routes"), [("api", api_routes()), ("worker", worker_routes())])
def test_probes_ask_routes_that_there_are_at_the_port_that_is_served(
    name: str, routes: set[str]
) -> None:
    (container,) = pod("Deployment", name)["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.model_fields[f"{name}_port"].default
    asked = {
        probe: container[probe]["httpGet"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert {get["port"] for get in asked.values()} == {port["name"]}
    assert {f"GET {get['path']}" for get in asked.values()} <= routes
    # A part that is away, or a slot in quarantine, must not restart what waits for it.
    assert asked["livenessProbe"]["path"] == "/healthz"
    assert asked["readinessProbe"]["path"] == "/readyz"


@pytest.mark.parametrize(("where", "spec"), pods())
def test_a_pod_keeps_the_restricted_profile(where: str, spec: dict[str, Any]) -> None:
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, where
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}, where
    assert spec["automountServiceAccountToken"] is False, where
    for container in containers(spec):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and "privileged" not in own, where
        assert own["capabilities"] == {"drop": ["ALL"]}, where
        assert own["readOnlyRootFilesystem"] is True, where
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume], where


@pytest.mark.parametrize(("where", "spec"), pods())
def test_a_container_says_what_it_needs(where: str, spec: dict[str, Any]) -> None:
    for container in containers(spec):
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, where


def test_nobody_reaches_anybody_unless_a_policy_says_so() -> None:
    assert POLICIES["nothing-by-default"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_only_what_uses_the_parts_reaches_them(name: str) -> None:
    (rule,) = POLICIES[name]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"dreamforge/uses-parts": "true"}}}]
    labelled = {
        found["spec"]["template"]["metadata"]["labels"]["app"]
        for _, found in ALL
        if found["kind"] in {"Deployment", "StatefulSet", "Job"}
        and "dreamforge/uses-parts" in found["spec"]["template"]["metadata"]["labels"]
    }
    assert labelled == {"api", "worker", "model"}


def test_only_the_command_that_downloads_leaves_the_cluster() -> None:
    """An egress rule without `to` is to everywhere."""
    everywhere = {
        name: policy["podSelector"]["matchLabels"]
        for name, policy in POLICIES.items()
        for rule in policy.get("egress", ())
        if "to" not in rule
    }
    assert everywhere == {"model": {"app": "model"}}


def _lets_pass(address: IPv4Address | IPv6Address) -> bool:
    (rule,) = POLICIES["webhooks"]["egress"]
    blocks = [target["ipBlock"] for target in rule["to"]]
    return any(
        address in ip_network(block["cidr"])
        and not any(address in ip_network(each) for each in block["except"])
        for block in blocks
    )


def test_webhooks_leave_from_the_api_alone_and_to_addresses() -> None:
    """An entry with `ipBlock` alone: with a selector beside it it would be about pods."""
    policy = POLICIES["webhooks"]
    assert policy["podSelector"] == {"matchLabels": {"app": "api"}}
    assert policy["policyTypes"] == ["Egress"] and "ingress" not in policy
    (rule,) = policy["egress"]
    assert [target.keys() for target in rule["to"]] == [{"ipBlock"}] * 2
    assert rule["ports"] == [{"protocol": "TCP"}]  # of any port: a URL may have one


# Those that the strategy finds by itself are the special networks of Python's own table.
@given(ip_addresses())
@example(ip_address("10.42.0.7"))  # a pod of K3S
@example(ip_address("10.43.0.1"))  # a service of K3S
@example(ip_address("169.254.169.254"))
@example(ip_address("100.100.100.200"))
@example(ip_address("fd00:ec2::254"))
@example(ip_address("2002:a9fe:a9fe::"))
@example(ip_address("64:ff9b::10.0.0.1"))
def test_the_policy_lets_no_webhook_pass_that_the_api_would_refuse(
    address: IPv4Address | IPv6Address,
) -> None:
    assert is_allowed(address, ()) or not _lets_pass(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111"])
def test_the_policy_lets_webhooks_reach_the_internet(address: str) -> None:
    assert _lets_pass(ip_address(address))


@pytest.mark.parametrize("name", ["api", "worker", "postgres", "redis", "s3"])
def test_a_service_leads_to_its_pod_and_stays_inside(name: str) -> None:
    (service,) = (found["spec"] for where, found in ALL if where.endswith(f": Service {name}"))
    assert service["selector"] == {"app": name}
    assert service.get("type", "ClusterIP") == "ClusterIP"
    kind = "Deployment" if name in {"api", "worker"} else "StatefulSet"
    (container,) = pod(kind, name)["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    for port in service["ports"]:
        assert named[port["targetPort"]] == port["port"]


def test_models_are_written_by_the_command_and_read_by_the_worker() -> None:
    def mount(spec: dict[str, Any]) -> dict[str, Any]:
        (container,) = spec["containers"]
        return next(found for found in container["volumeMounts"] if found["name"] == "models")

    assert mount(pod("Deployment", "worker"))["readOnly"] is True
    assert "readOnly" not in mount(pod("Job", "model-"))


def test_the_shipped_model_is_where_the_job_looks_for_it() -> None:
    (container,) = pod("Job", "model-")["containers"]
    folder = Path(container["args"][-1])
    assert (ROOT / folder.relative_to("/opt/dreamforge") / "dreamforge.json").is_file()
    dockerfile = (ROOT / "deploy/worker.Dockerfile").read_text(encoding="utf-8")
    assert "site-packages/models /opt/dreamforge/models" in dockerfile
