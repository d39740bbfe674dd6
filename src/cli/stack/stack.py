"""The whole product on one machine: infrastructure, schema, bucket, models, api and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli import backends
from cli.errors import STACK_FAILED, StackError
from cli.processes.process_manager import ProcessManager
from cli.stack.infrastructure import Address, manage_processes, plan
from cli.stack.seed_models import SeedModel, SeedModels, install_seed_models
from cli.stack.services import services
from cli.state_dir import ENVIRONMENT, StateDir

if TYPE_CHECKING:  # at run time the settings library costs a quarter of a second
    from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack that serves. `model` makes the first picture, and `upscaler` a larger one of it."""

    manager: ProcessManager
    api_base: str
    addresses: tuple[Address, ...]
    model: SeedModel
    upscaler: SeedModel | None


@contextmanager
def run_stack(
    home: StateDir, environ: Mapping[str, str], notify: Callable[[str], None]
) -> Iterator[Stack]:
    """Start everything in order, and stop it at the end. Raises StackError with what to do."""
    with manage_processes(home, notify) as manager:
        planned = plan(home, environ)
        environ = {**environ, **planned.environment}
        environ.pop("DF_ADMIN_DATABASE_URL", None)  # no service is to know it
        settings = backends.settings(environ, exit_code=STACK_FAILED)
        both = api, worker = services(settings, environ, home)
        for service in both:
            service.require_free_port()
        if planned.parts:
            notify("starting " + ", ".join(part.title for part in planned.parts))
        planned.start(manager)
        notify("preparing schema, bucket and models")
        seeds = _prepare(settings, planned.admin_url)
        notify("starting api and worker")
        manager.start(both)
        api_base, worker_base = f"http://{api.address()}", f"http://{worker.address()}"
        with _published(home, planned.environment | api.environment() | worker.environment()):
            yield Stack(
                manager=manager,
                api_base=api_base,
                addresses=(
                    Address("API", api_base, "DF_API_PORT"),
                    Address("Page", f"{api_base}/"),
                    Address("API reference", f"{api_base}/docs"),
                    Address("Worker metrics", f"{worker_base}/metrics", "DF_WORKER_PORT"),
                    *planned.addresses,
                    Address("Models", str(settings.models_dir)),
                    Address("Data and logs", str(home.path), "DF_HOME"),
                ),
                model=seeds.model,
                upscaler=seeds.upscaler,
            )


def _prepare(settings: Settings, admin_url: str | None) -> SeedModels:
    import anyio
    from migrations.upgrade import upgrade

    from shared.errors import DreamForgeError
    from shared.object_store import open_store

    try:
        upgrade(settings.database_url.get_secret_value(), admin_url)
        anyio.run(open_store(settings).ensure_bucket)
        return install_seed_models(settings)
    except DreamForgeError as error:
        raise StackError(str(error)) from error


@contextmanager
def _published(home: StateDir, environment: Mapping[str, str]) -> Iterator[None]:
    home.write(ENVIRONMENT, dict(environment))
    try:
        yield
    finally:
        (home.path / ENVIRONMENT).unlink(missing_ok=True)
