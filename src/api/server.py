"""The api process: its socket, the services it waits for, uvicorn, and a clean end."""

import errno
import logging
import resource
import signal
import socket
import sys

import anyio
import uvicorn

from api.app import create_app
from api.dispatch import Notifier
from api.metrics import Metrics
from api.processes import serve_processes, server_config
from shared import readiness
from shared.addresses import address_of, joined, listening
from shared.auth import is_loopback
from shared.certificates import tls_problem
from shared.errors import InfraUnavailable
from shared.linux.umask import forbid_writing_by_others
from shared.printable import escape_controls
from shared.readiness import NotReady
from shared.settings import Settings, forget_secrets
from shared.telemetry.log_format import configure_logging

log = logging.getLogger(__name__)

EXIT_NOT_READY = 1
EXIT_MISCONFIGURED = 2
# A client that does not read keeps its connection this long, then the kernel ends it.
UNREAD_TIMEOUT_MS = 30_000
# Open files beside those of streams: database, store, broker, requests in flight.
SPARE_FILES = 256


def serve(settings: Settings) -> int:
    """Run until a signal; returns the exit code."""
    forget_secrets()
    forbid_writing_by_others()
    configure_logging(settings.log_level)
    if not (settings.api_keys or is_loopback(settings.api_host)):
        return _stop(
            EXIT_MISCONFIGURED,
            f"DF_API_HOST={settings.api_host} would serve the network without API keys; "
            "set DF_API_KEYS, or use 127.0.0.1",
        )
    if (why := raise_file_limit(settings.max_streams)) is not None:
        return _stop(EXIT_MISCONFIGURED, why)
    if (why := tls_problem()) is not None:
        return _stop(EXIT_MISCONFIGURED, why)
    try:
        listener = bind(settings.api_host, settings.api_port)
    except OSError as error:
        return _stop(EXIT_MISCONFIGURED, _why_not_bound(settings, error))
    with listener:
        try:
            if settings.api_processes == 1:
                return anyio.run(_serve, settings, listener)
            anyio.run(_prepare, settings, listener)
            return 0 if serve_processes(settings, listener) else EXIT_NOT_READY
        except NotReady as error:
            return _stop(EXIT_NOT_READY, str(error))


def raise_file_limit(streams: int) -> str | None:
    """Raise the soft limit of open files as far as it goes; why it is too low for `streams`, if so.

    Every connection is an open file. Shells and service managers start processes with a soft limit
    of 1024, which is fewer than the streams that we promise. A process at its limit gives clients
    no error: the kernel keeps the connection, and the process never accepts it.
    """
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    needed = streams + SPARE_FILES
    if maximum != resource.RLIM_INFINITY and maximum < needed:
        return (
            f"DF_MAX_STREAMS={streams} needs {needed} open files, and the limit is {maximum}; "
            "raise it (ulimit -Hn) or lower the setting"
        )
    return None


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a process that is not ready takes no connection.

    Raises `OSError`, also for a name that cannot be resolved.
    """
    # The protocol is named: asyncio sets TCP_NODELAY on accepted connections only where it is TCP,
    # not 0. Without the option each answer on a kept connection waits 40 ms for a delayed ACK.
    family, address = listening(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these. Without them a peer that vanished, or that stopped reading its
        # stream, would hold its memory until the process ends.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


async def _prepare(settings: Settings, listener: socket.socket) -> None:
    """What is done once, however many processes there are. Raises `NotReady`."""
    await _wait_for_services(settings)
    host, port = listener.getsockname()[:2]
    log.info("api: listening on http://%s, documentation at /docs", joined(host, port))
    if settings.vram_factor != 1:
        log.warning(
            "DF_VRAM_FACTOR=%g: every preset's memory estimate is multiplied by it, whatever the "
            "card can really hold",
            settings.vram_factor,
        )


async def _serve(settings: Settings, listener: socket.socket) -> int:
    await _prepare(settings, listener)
    app = create_app(settings)
    # uvicorn ends cleanly on these, then raises them again for the handler that was there before;
    # the default one would turn a clean end into "killed by signal 15".
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await uvicorn.Server(server_config(app)).serve(sockets=[listener])
    return 0


async def _wait_for_services(settings: Settings) -> None:
    """Return when jobs can be accepted. Raises `NotReady`.

    The broker only wakes workers early: without it the api starts, and logs a warning.
    """
    await readiness.wait_for_parts(settings)
    url = settings.redis_url.get_secret_value()
    notifier = Notifier(url, Metrics())
    try:
        await notifier.ping()
    except InfraUnavailable as error:
        log.warning(
            "DF_REDIS_URL: the broker at %s cannot be used (%s); workers find jobs by polling",
            address_of(url),
            error.reason,
        )
    await notifier.close()


def _why_not_bound(settings: Settings, error: OSError) -> str:
    where = joined(settings.api_host, settings.api_port)
    if error.errno == errno.EADDRINUSE:
        return f"port {settings.api_port} is in use ({where}); set DF_API_PORT to a free one"
    return f"cannot listen on {where}: {error.strerror}; see DF_API_HOST and DF_API_PORT"


def _stop(code: int, line: str) -> int:
    sys.stderr.write(f"api: {escape_controls(line)}\n")
    return code
