"""`compose.yaml` and its companions are valid, agree with the code, and allow little."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.support.deployment import (
    COMMAND_LINE,
    COMPOSE_FILES,
    ROOT,
    SETTINGS,
    compose,
    seconds,
    services,
    usual_stop_grace_s,
    variables,
)
from tests.support.routes import api_routes, worker_routes

from cli.secret_files import contents
from shared.settings import Settings

STACK = compose()
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
FILES = contents()
OURS = {"api", "worker"}
TOOLS = {"secrets", "model"}


def schema() -> dict[str, Any]:
    """The specification's own schema, as the package `check-jsonschema` carries it."""
    spec = importlib.util.find_spec("check_jsonschema")
    assert spec is not None and spec.origin is not None
    vendored = Path(spec.origin).parent / "builtin_schemas/vendor/compose-spec.json"
    found = json.loads(vendored.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
def test_a_compose_file_is_valid_by_the_specification(path: Path) -> None:
    problems = Draft202012Validator(schema()).iter_errors(compose(path))
    assert [f"{problem.json_path}: {problem.message}" for problem in problems] == []


def test_there_is_a_service_for_each_part_and_two_commands() -> None:
    assert SERVICES.keys() == OURS | {"postgres", "redis", "s3", "migrate"} | TOOLS
    assert {name for name, service in SERVICES.items() if service.get("profiles")} == TOOLS


@pytest.mark.parametrize(("where", "service"), services())
def test_every_variable_of_ours_is_a_setting(where: str, service: dict[str, Any]) -> None:
    ours = {name for name in variables(service) if name.startswith("DF_")}
    assert ours <= SETTINGS | COMMAND_LINE, where


def test_what_the_environment_says_are_valid_settings() -> None:
    """Each service's variables, with the secrets that it gets, are a whole configuration."""
    for name in OURS:
        service = SERVICES[name]
        given = {key: value for key, value in service["environment"].items() if key in SETTINGS}
        given |= {secret.upper(): FILES[secret] for secret in service["secrets"]}
        fields = {key.removeprefix("DF_").lower(): _default(value) for key, value in given.items()}
        read = Settings.model_validate(fields)
        assert read.api_keys, "beyond loopback nothing starts without keys"


def _default(value: Any) -> Any:
    """What `${NAME:-default}` is where nobody set NAME."""
    if isinstance(value, str) and value.startswith("${"):
        return value.removesuffix("}").partition(":-")[2]
    return value


@pytest.mark.parametrize(("where", "service"), services())
def test_a_port_is_published_on_loopback_and_in_the_8000s(
    where: str, service: dict[str, Any]
) -> None:
    for port in service.get("ports", ()):
        address, public, _ = port.split(":")
        assert address == "127.0.0.1" and 8000 <= int(public) < 9000, f"{where}: {port}"


def test_only_what_people_and_clients_use_is_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "api": ["127.0.0.1:8001:8001"],
        "worker": ["127.0.0.1:8002:8002"],
        "s3": ["127.0.0.1:8003:7070"],
    }


def test_presigned_urls_name_the_published_port_of_the_store() -> None:
    for name in OURS:
        public = _default(SERVICES[name]["environment"]["DF_S3_PUBLIC_ENDPOINT"])
        assert public == "http://" + SERVICES["s3"]["ports"][0].rpartition(":")[0]


@pytest.mark.parametrize(
    "worker", [service for where, service in services() if where.endswith(": worker")]
)
def test_a_worker_is_given_the_time_that_it_may_need_to_stop(worker: dict[str, Any]) -> None:
    if "image" in worker:  # the override for GPUs says nothing about it
        assert seconds(worker["stop_grace_period"]) >= usual_stop_grace_s()


def test_secrets_are_those_that_the_generator_makes_and_the_settings_read() -> None:
    for path in COMPOSE_FILES:
        for name, secret in compose(path).get("secrets", {}).items():
            file = (path.parent / secret["file"]).resolve()
            assert file == ROOT / "secrets" / name
            assert name in FILES
            others = {"postgres_password", "redis_conf", "df_admin_database_url"}
            assert name.upper() in SETTINGS or name in others


@pytest.mark.parametrize(("where", "service"), services())
def test_a_service_gets_secrets_that_exist_and_no_value_in_its_environment(
    where: str, service: dict[str, Any]
) -> None:
    assert set(service.get("secrets", ())) <= STACK["secrets"].keys(), where
    assert not {name.lower() for name in variables(service)} & STACK["secrets"].keys(), where


def test_a_server_gets_its_own_secret_and_no_other() -> None:
    assert SERVICES["postgres"]["secrets"] == ["postgres_password"]
    assert SERVICES["redis"]["secrets"] == ["redis_conf"]
    assert SERVICES["s3"]["secrets"] == ["df_s3_access_key", "df_s3_secret_key"]
    assert SERVICES["migrate"]["secrets"] == ["df_database_url", "df_admin_database_url"]
    for _, service in services():
        known = service.get("secrets", ())
        assert "df_admin_database_url" not in known or service["command"] == ["migrate"]


def test_hosts_in_the_secrets_are_services() -> None:
    assert "@postgres:5432/" in FILES["df_database_url"]
    assert "@redis:6379/" in FILES["df_redis_url"]
    assert SERVICES["api"]["environment"]["DF_S3_ENDPOINT"] == "http://s3:7070"


@pytest.mark.parametrize(("name", "routes"), [("api", api_routes()), ("worker", worker_routes())])
def test_a_health_check_asks_a_route_that_there_is_at_the_port_that_is_served(
    name: str, routes: set[str]
) -> None:
    test = SERVICES[name]["healthcheck"]["test"]
    port = Settings.model_fields[f"{name}_port"].default
    assert test[:3] == ["CMD", "python", "-c"]
    assert f'"http://127.0.0.1:{port}/readyz"' in test[3]
    assert "GET /readyz" in routes
    compile(test[3], "healthcheck", "exec")


def test_services_wait_for_the_schema_and_the_parts() -> None:
    for name in OURS:
        assert SERVICES[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
            "s3": {"condition": "service_healthy"},
        }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


@pytest.mark.parametrize(
    ("where", "service"), [found for found in services() if "image" in found[1]]
)
def test_nothing_may_do_more_than_it_must(where: str, service: dict[str, Any]) -> None:
    assert service["read_only"] is True, where
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, where
    assert service["security_opt"] == ["no-new-privileges:true"], where
    assert "privileged" not in service and "pid" not in service, where


def test_only_the_store_is_root_and_only_where_the_image_says_no_user() -> None:
    """Ours are 10001 by their Dockerfiles (test_dockerfiles.py)."""
    users = {name: service.get("user") for name, service in SERVICES.items()}
    assert {name for name, user in users.items() if user is None} == OURS | TOOLS | {"migrate"}
    assert {name for name, user in users.items() if user == "0:0"} == {"s3"}


def test_only_the_command_that_downloads_writes_models() -> None:
    assert "models:/models:ro" in SERVICES["worker"]["volumes"]
    assert SERVICES["model"]["volumes"] == ["models:/models"]
    assert "volumes" not in SERVICES["api"]


def test_the_parts_have_no_way_out() -> None:
    assert STACK["networks"]["parts"] == {"internal": True}
    for name in ("postgres", "redis", "migrate"):
        assert SERVICES[name]["networks"] == ["parts"]


def test_no_worker_leaves_the_host_and_what_downloads_or_calls_webhooks_does() -> None:
    networks = STACK["networks"]
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    assert networks["front"]["driver_opts"] == {masquerade: "false"}
    out = {name for name, network in networks.items() if not network}
    leave = {name for name, each in SERVICES.items() if out & set(each.get("networks", ()))}
    assert (out, leave) == ({"egress"}, {"api", "model"})


def test_the_gpu_override_changes_devices_and_nothing_else() -> None:
    (override,) = compose(ROOT / "deploy/compose.gpu.yaml")["services"].values()
    assert override["environment"] == {"DF_DEVICE": "cuda"}
    (device,) = override["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"]) == ("cdi", ["nvidia.com/gpu=all"])
    assert SERVICES["worker"]["environment"]["DF_DEVICE"] == "cpu"


@pytest.mark.parametrize("name", ["worker", "model"])
def test_a_worker_on_another_host_is_the_same_worker(name: str) -> None:
    """All but what differs: where the parts are, and how they are reached."""
    alone = compose(ROOT / "deploy/compose.worker.yaml")["services"][name]
    here = dict(SERVICES[name])
    for key in ("environment", "networks", "depends_on", "build", "restart", "init", "logging"):
        assert key not in alone or key in here
        alone.pop(key, None), here.pop(key, None)
    assert alone == here


def test_a_worker_on_another_host_has_the_same_variables() -> None:
    alone = compose(ROOT / "deploy/compose.worker.yaml")["services"]["worker"]
    assert variables(alone) == variables(SERVICES["worker"]) - {"DF_S3_PUBLIC_ENDPOINT"}
