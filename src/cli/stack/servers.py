"""The servers of the infrastructure. A new one is a file beside this and a row here."""

from cli.stack.broker import Broker
from cli.stack.part import LocalServer
from cli.stack.postgres import Postgres
from cli.stack.store import Store

SERVERS: tuple[type[LocalServer], ...] = (Postgres, Broker, Store)
