"""The servers of the infrastructure. A new one is a file beside this and a row here."""

from cli.processes.part import LocalServer
from cli.servers.broker import Broker
from cli.servers.postgres import Postgres
from cli.servers.store import Store

SERVERS: tuple[type[LocalServer], ...] = (Postgres, Broker, Store)
