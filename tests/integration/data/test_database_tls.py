"""PostgreSQL by TLS with an authority of one's own: accepted, or refused with what to change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import anyio
import psycopg
import pytest
from migrations.upgrade import upgrade
from tests.support.api_harness import settings_of
from tests.support.certificates import Pair, authority, needs_openssl, signed_by
from tests.support.infrastructure import Infrastructure
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.relay import server_of

from shared.errors import InfraUnavailable
from shared.readiness import NotReady, wait_for_parts

pytestmark = [needs_openssl, needs_pgbouncer]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(files: Path) -> Pair:
    return authority(files, "ours")


@pytest.fixture(scope="module")
def encrypted(stack: Infrastructure, files: Path, ours: Pair) -> Iterator[str]:
    """The services' address, by TLS and for 127.0.0.1.

    The embedded PostgreSQL is built without TLS, so it is PgBouncer that speaks it.
    """
    pair = signed_by(ours, files, "server", names="IP:127.0.0.1")
    with pgbouncer(
        stack.services["DF_DATABASE_URL"],
        mode="transaction",
        client_tls_sslmode="require",
        client_tls_cert_file=str(pair.certificate),
        client_tls_key_file=str(pair.key),
    ) as url:
        yield url


def checked(url: str, certificate: Path) -> str:
    return f"{url}?sslmode=verify-full&sslrootcert={quote(str(certificate), safe='')}"


def refusal(stack: Infrastructure, url: str) -> str:
    """The one line of a start; `migrate` says the same."""
    settings = settings_of({**stack.services, "DF_DATABASE_URL": url}, startup_timeout_s=0.5)
    with pytest.raises(NotReady) as found:
        anyio.run(wait_for_parts, settings)
    line = str(found.value)
    assert line.startswith("DF_DATABASE_URL: ") and "\n" not in line
    with pytest.raises(InfraUnavailable):
        upgrade(url)
    return line


def test_a_server_without_tls_is_refused_where_the_address_asks_for_it(
    stack: Infrastructure, migrated_url: str, ours: Pair
) -> None:
    line = refusal(stack, checked(stack.services["DF_DATABASE_URL"], ours.certificate))
    assert "server does not support SSL" in line and "switch TLS on" in line


def test_an_authority_of_ones_own_is_accepted(
    stack: Infrastructure, encrypted: str, ours: Pair
) -> None:
    url = checked(encrypted, ours.certificate)
    anyio.run(wait_for_parts, settings_of({**stack.services, "DF_DATABASE_URL": url}))
    with psycopg.connect(url) as connection:
        assert connection.pgconn.ssl_in_use


def test_another_authority_is_refused_with_what_to_name(
    stack: Infrastructure, encrypted: str, files: Path
) -> None:
    line = refusal(stack, checked(encrypted, authority(files, "other").certificate))
    assert "certificate verify failed" in line and "sslrootcert" in line


def test_a_missing_file_of_the_authority_is_named(
    stack: Infrastructure, encrypted: str, files: Path
) -> None:
    line = refusal(stack, checked(encrypted, files / "missing.pem"))
    assert "missing.pem" in line and "name the file" in line


def test_a_certificate_of_another_name_is_refused(
    stack: Infrastructure, encrypted: str, ours: Pair
) -> None:
    url = checked(encrypted, ours.certificate)
    host, port = server_of(url)
    elsewhere = url.replace(f"@{host}:{port}", f"@db.internal:{port}") + f"&hostaddr={host}"
    line = refusal(stack, elsewhere)
    assert "does not match host name" in line and "verify-full compares names" in line
