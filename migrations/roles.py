"""Who may do what in the database: one role owns the schema, another reads and writes its rows.

    admin     may make roles, a superuser as a rule; only `migrate` and `dreamforge up` know it
    owner     `dreamforge_owner`: has the tables, changes them, cannot log in
    service   that of DF_DATABASE_URL: api, worker and commands; no superuser, owns nothing

An installation that was made before has the tables in the admin's hands; they change hands here.
Every step may be repeated.
"""

from typing import Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from shared.errors import InfraUnavailable

OWNER = "dreamforge_owner"
_REVISION = "alembic_version"
# What a role of ours must not have, whoever made it.
_ORDINARY = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
_OTHERS_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
      AND relowner <> (SELECT oid FROM pg_roles WHERE rolname = :owner)
"""


def become_owner(connection: Connection, service_url: str) -> None:
    """As the admin: make both roles what they are to be, and go on as the owner.

    Raises `InfraUnavailable` when this is the services' own role, or may not make others.
    """
    service = _service(connection, service_url)
    try:
        _make_role(connection, OWNER, f"NOLOGIN {_ORDINARY}")
        _make_role(connection, service, f"LOGIN {_ORDINARY}")
        _set_password(connection, service, conninfo_to_dict(service_url).get("password"))
        _hand_over(connection)
    except ProgrammingError as error:
        reason = str(error.orig).splitlines()[0]
        raise InfraUnavailable(
            f"DF_ADMIN_DATABASE_URL must name a role that may make roles: {reason}"
        ) from error
    connection.commit()
    connection.exec_driver_sql(f"SET ROLE {OWNER}")
    connection.commit()


def grant_rows(connection: Connection, service_url: str) -> None:
    """As the owner: let the service read and write every row, and read which revision this is."""
    role, schema = _quoted(_service(connection, service_url)), _schema(connection)
    rights = "SELECT, INSERT, UPDATE, DELETE"
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    connection.exec_driver_sql(f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {role}")
    connection.exec_driver_sql(f"REVOKE INSERT, UPDATE, DELETE ON {_REVISION} FROM {role}")
    connection.commit()


def _make_role(connection: Connection, name: str, rights: str) -> None:
    known = text("SELECT 1 FROM pg_roles WHERE rolname = :name")
    if connection.scalar(known, {"name": name}) is None:
        connection.exec_driver_sql(f"CREATE ROLE {_quoted(name)}")
    connection.exec_driver_sql(f"ALTER ROLE {_quoted(name)} {rights}")


def _set_password(connection: Connection, name: str, password: Any) -> None:
    """As a verifier: a statement may end up in the server's log."""
    if password is not None:
        driver = connection.connection.driver_connection
        assert driver is not None
        verifier = driver.pgconn.encrypt_password(str(password).encode(), b"", b"scram-sha-256")
        connection.exec_driver_sql(f"ALTER ROLE {_quoted(name)} PASSWORD '{verifier.decode()}'")


def _hand_over(connection: Connection) -> None:
    """Give the owner the schema, and tables that another role has made."""
    schema = _schema(connection)
    connection.exec_driver_sql(f"GRANT {OWNER} TO CURRENT_USER")
    connection.exec_driver_sql(f"ALTER SCHEMA {schema} OWNER TO {OWNER}")
    for table in connection.scalars(text(_OTHERS_TABLES), {"owner": OWNER}).all():
        connection.exec_driver_sql(f"ALTER TABLE {schema}.{_quoted(table)} OWNER TO {OWNER}")


def _service(connection: Connection, service_url: str) -> str:
    name = conninfo_to_dict(service_url).get("user")
    if name is None or name == connection.scalar(text("SELECT session_user")):
        raise InfraUnavailable(
            "DF_DATABASE_URL and DF_ADMIN_DATABASE_URL must name two roles: the services' own is "
            "made by the other one, and owns nothing"
        )
    return str(name)


def _schema(connection: Connection) -> str:
    return _quoted(str(connection.scalar(text("SELECT current_schema()"))))


def _quoted(name: str) -> str:
    """A name in a statement that the driver gets as it is; it takes `%` for a parameter's begin."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'
