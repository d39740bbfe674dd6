"""An address that is odd in any way ends the start with one line, which has no piece of it."""

from __future__ import annotations

import re
import socket

import pytest
from pydantic import ValidationError
from tests.support.harness import settings_for_tests

from shared.addresses import address_of, check_host, joined, listening
from shared.settings import describe

ESCAPE = "%2F"
HOST = "must be a host's name, or an address like 127.0.0.1 or ::1, without port"
ODD = {
    # setting: value, what the line says, what it must not show
    "a slash in a password": ("redis_url", "redis://:Sec/ret@127.0.0.1:6379/0", ESCAPE),
    "a slash and digits": ("redis_url", "redis://:123/ret@127.0.0.1:6379/0", ESCAPE),
    "a question mark in it": ("database_url", "postgresql://u:Sec?ret@h:5432/x", ESCAPE),
    "a number sign in it": ("database_url", "postgresql://u:Sec#ret@h:5432/x", ESCAPE),
    "an at sign in it": ("database_url", "postgresql://u:Sec@ret@h:5432/x", ESCAPE),
    "a bracket in it": ("redis_url", "redis://:Sec[ret@h:6379/0", ESCAPE),
    "brackets in it": ("redis_url", "redis://:[Secret]@h:6379/0", ESCAPE),
    "a word for a port": ("s3_endpoint", "http://h:Secret", "a number from 1 to 65535"),
    "a port beyond all": ("database_url", "postgresql://127.0.0.1:99999/x", "1 to 65535"),
    "port 0": ("redis_url", "redis://h:0/0", "1 to 65535"),
    "a negative port": ("s3_endpoint", "http://h:-1", "1 to 65535"),
    "two hosts of a broker": ("redis_url", "redis://h1:6379,h2:6379/0", "one port"),
    "a word for the second port": ("database_url", "postgresql://h:5432,h2:Secret/x", "one port"),
    "an empty second host": ("database_url", "postgresql://h:5432,/x", "names no host"),
    "no host": ("database_url", "postgresql:///x", "names no host"),
    "no host but a port": ("redis_url", "redis://:6379/0", "names no host"),
    "no host of a store": ("s3_endpoint", "http://:9000", "names no host"),
    "a name with a space": ("s3_endpoint", "http://h h:9000", "has a space"),
    "a line break": ("database_url", "postgresql://u:p@h\n:5432/x", "a line break"),
    "a name with an empty part": ("s3_endpoint", "http://a..b:9000", "no host's name"),
    "a name with a sign": ("redis_url", "redis://h$Secret:6379/0", "no host's name"),
    "an address that is none": ("redis_url", "redis://[::Secret]:6379/0", ESCAPE),
    "another scheme": ("redis_url", "http://h:6379/0", "must be redis://"),
    "a scheme in capitals": ("redis_url", "REDIS://h:6379/0", "must be redis://"),
    "no scheme": ("s3_endpoint", "h:9000", "must be http://"),
    "a word for a number": ("redis_url", "redis://h:6379/Secret", "must end with the number"),
    "an option of another": ("redis_url", "redis://h:6379/0?socket_timeout=x", "after ?"),
    "TLS without TLS": ("redis_url", "redis://h:6379/0?ssl_cert_reqs=none", "rediss://"),
    "a wrong way to check": ("redis_url", "rediss://h:6379/0?ssl_cert_reqs=Secret", "required"),
    "a user at the store": ("s3_endpoint", "http://u:Secret@h:9000", "an origin alone"),
    "a path of the store": ("s3_public_endpoint", "http://h:9000/x", "an origin alone"),
    "a fragment": ("s3_endpoint", "http://h:9000#Secret", "an origin alone"),
    "a port where a host is": ("worker_host", "127.0.0.1:8002", HOST),
    "an address that is no host": ("api_host", "http://h", HOST),
    "an address of no family": ("api_host", "::Secret", HOST),
    "a name of another script that is none": ("s3_endpoint", "http://xn--:9000", "no host's name"),
    "a name that no socket takes": ("worker_host", "a..b", HOST),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_address_is_refused_in_one_line_without_a_piece_of_it(name: str) -> None:
    setting, value, says = ODD[name]
    with pytest.raises(ValidationError) as found:
        settings_for_tests(**{setting: value})
    (line,) = describe(found.value)
    assert line.startswith(f"DF_{setting.upper()}: ")
    assert says in line
    assert not re.search(r"Sec|ret\b|99999|h1", line)


SOUND = [
    ("database_url", "postgres://u:p%2Fw%40@db.internal:5432/x?sslmode=require"),
    ("database_url", "postgresql://u@server:pw@h/x".replace("u@server", "u%40server")),
    ("database_url", "postgresql:///x?host=/run/postgresql"),
    ("database_url", "postgresql://[::1]/x?options=-csearch_path%3Ddf"),
    ("database_url", "postgresql://u:p,w@h1:5432,[::1]:5433,h3/x?target_session_attrs=primary"),
    ("redis_url", "redis://h"),
    ("redis_url", "rediss://u:p@h.:6380/15?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem"),
    ("s3_endpoint", "https://[fe80::1]:9000"),
    ("s3_endpoint", "http://object_store:9000"),
    ("worker_host", "::1"),
    ("api_host", "0.0.0.0"),
    ("api_host", "localhost"),
    ("s3_endpoint", "http://store.xn--80ak6aa92e.com"),
]


@pytest.mark.parametrize(("setting", "value"), SOUND)
def test_an_address_that_its_client_can_read_passes(setting: str, value: str) -> None:
    read = getattr(settings_for_tests(**{setting: value}), setting)
    assert getattr(read, "get_secret_value", lambda: read)() == value


def test_an_address_is_shown_without_what_is_secret_and_never_as_none() -> None:
    assert address_of("postgresql://u:secret@db.internal:5432/x") == "db.internal:5432"
    assert address_of("redis://:secret@[::1]:6379/0") == "[::1]:6379"
    assert address_of("postgresql:///x?host=/run/postgresql") == "/run/postgresql"
    assert address_of("http://store") == "store"
    assert address_of("postgresql://u:p,w@h1:5432,[::1]/x") == "h1:5432, [::1]"


def test_an_ipv6_address_has_brackets_before_a_port() -> None:
    assert joined("::1", 8001) == "[::1]:8001"
    assert joined("127.0.0.1", 8001) == "127.0.0.1:8001"
    assert check_host("[::1]") == "::1"


def test_a_name_is_listened_on_by_the_family_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 8001, 0, 0))
    four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 8001))
    for found, chosen in (([six], six), ([six, four], four), ([four], four)):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        assert listening("a-name", 8001) == (chosen[0], chosen[4])
