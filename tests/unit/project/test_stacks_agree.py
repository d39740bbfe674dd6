"""Compose files, manifests, Dockerfiles and the page about them say the same."""

from __future__ import annotations

import re

import pytest
from tests.support.deployment import (
    DOCKERFILES,
    ROOT,
    VERSION,
    compose,
    containers,
    images,
    parsed,
    pod,
    pods,
    usual_stop_grace_s,
)

PAGE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("image", sorted(images()))
def test_an_image_is_pinned_to_one_release(image: str) -> None:
    name, tag, digest = parsed(image)
    assert digest or (tag and tag != "latest"), image
    if name.startswith("dreamforge-"):
        assert tag == VERSION
    else:
        assert tag is not None and any(character.isdigit() for character in tag), image


def test_compose_and_kubernetes_run_the_same_images() -> None:
    in_compose = {service["image"] for service in compose()["services"].values()}
    in_pods = {container["image"] for _, spec in pods() for container in containers(spec)}
    assert in_compose == in_pods


@pytest.mark.parametrize("name", ["postgres", "redis", "s3"])
def test_a_server_is_run_as_in_the_compose_file(name: str) -> None:
    (container,) = pod("StatefulSet", name)["containers"]
    service = compose()["services"][name]
    plain = {entry["name"]: entry.get("value") for entry in container.get("env", ())}
    for variable, value in service.get("environment", {}).items():
        assert variable in plain
        if "${" not in value:  # else the operator's; Kubernetes has it in a map
            assert plain[variable] == value
    if name == "redis":
        assert container["args"] == service["command"]


def test_the_store_gets_the_origin_of_pages_that_may_fetch_pictures() -> None:
    store = compose()["services"]["s3"]["environment"]["VGW_CORS_ALLOW_ORIGIN"]
    assert store == compose()["services"]["api"]["environment"]["DF_CORS_ORIGINS"]
    (container,) = pod("StatefulSet", "s3")["containers"]
    (origin,) = [entry for entry in container["env"] if entry["name"] == "VGW_CORS_ALLOW_ORIGIN"]
    assert origin["valueFrom"]["configMapKeyRef"] == {"name": "settings", "key": "DF_CORS_ORIGINS"}


def test_commands_on_the_page_and_in_dockerfiles_name_this_version() -> None:
    text = PAGE + "".join(path.read_text(encoding="utf-8") for path in DOCKERFILES)
    named = set(re.findall(r"dreamforge-(?:api|worker):([\w.]+)", text))
    assert named == {VERSION}


def test_the_page_names_the_stop_grace_of_the_defaults() -> None:
    assert f"`Timings.stop_grace_s` is {usual_stop_grace_s():g} s" in PAGE
