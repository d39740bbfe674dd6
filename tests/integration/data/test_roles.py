"""The services' role reads and writes rows, and can do nothing else to the database or its host."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from migrations.roles import OWNER
from migrations.upgrade import upgrade
from psycopg import errors
from sqlalchemy.engine import make_url

from shared.errors import InfraUnavailable

SERVICE, PASSWORD = "df-service:odd%", "se:cret%40"
DAY = (
    "INSERT INTO usage (\"user\", day, model) VALUES ('u', '2026-01-01', 'm') "
    "ON CONFLICT DO NOTHING"
)


@pytest.fixture
def admin_url(database_url: str) -> Iterator[str]:
    """The superuser, on an empty database that is dropped with the services' role."""
    name = f"df_roles_{uuid4().hex}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield make_url(database_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute(f'DROP ROLE IF EXISTS "{SERVICE}"')


@pytest.fixture
def service_url(admin_url: str) -> str:
    url = make_url(admin_url).set(username=SERVICE, password=PASSWORD)
    return url.render_as_string(hide_password=False)


@pytest.mark.parametrize("made_before", [False, True])
def test_the_services_have_the_rows_and_nothing_else(
    admin_url: str, service_url: str, made_before: bool
) -> None:
    if made_before:  # by a release in which the services were the superuser
        upgrade(admin_url)
        with psycopg.connect(admin_url) as before:
            before.execute(DAY)
    for _ in range(2):
        upgrade(service_url, admin_url)
    with psycopg.connect(service_url, autocommit=True) as service:
        service.execute(DAY)
        assert service.execute('SELECT "user" FROM usage').fetchall() == [("u",)]
        service.execute("DELETE FROM usage")
        for statement in (
            "COPY usage FROM PROGRAM 'echo x'",
            "COPY usage TO '/tmp/dreamforge-usage'",
            "SELECT pg_read_file('postgresql.conf')",
            "CREATE TABLE mine (id int)",
            "ALTER TABLE usage ADD COLUMN mine int",
            "DROP TABLE usage",
            "UPDATE alembic_version SET version_num = '9999'",
            "CREATE ROLE mine",
            "CREATE DATABASE mine",
            "ALTER SYSTEM SET fsync = off",
            f"SET ROLE {OWNER}",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                service.execute(statement)
        owners = service.execute(
            "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'"
        )
        assert owners.fetchall() == [(OWNER,)]


def test_a_password_that_has_changed_is_the_one_from_the_next_migration_on(
    admin_url: str, service_url: str
) -> None:
    upgrade(service_url, admin_url)
    changed = make_url(service_url).set(password="other").render_as_string(hide_password=False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(changed)
    upgrade(changed, admin_url)
    psycopg.connect(changed).close()


def test_roles_that_cannot_be_told_apart_or_made_are_refused(
    admin_url: str, service_url: str
) -> None:
    with pytest.raises(InfraUnavailable, match="must name two roles"):
        upgrade(admin_url, admin_url)
    upgrade(service_url, admin_url)
    other = make_url(service_url).set(username="df_other").render_as_string(hide_password=False)
    with pytest.raises(InfraUnavailable, match="must name a role that may make roles"):
        upgrade(other, service_url)


def test_the_services_role_alone_finds_the_schema_done_or_says_who_may_change_it(
    admin_url: str, service_url: str
) -> None:
    """A worker's pod in K3S, which does not know the admin, is started before the api's."""
    upgrade(service_url, admin_url)
    upgrade(service_url)
    with psycopg.connect(admin_url) as before:
        before.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(InfraUnavailable, match=r"may not change the schema .* DF_ADMIN_DATABASE"):
        upgrade(service_url)
