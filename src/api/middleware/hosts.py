"""The host names that an API without keys answers to.

Such an API trusts every process that reaches its loopback address. A web page can reach it: its
author lets the page's own name resolve to 127.0.0.1 (DNS rebinding), and the browser lets the page
read everything. The browser still sends the page's name as `Host`, so we refuse that name. An
address is no name and cannot be rebound. With keys any name will do: the page has no key.
"""

import re

from starlette.datastructures import Headers

from shared.auth import is_loopback
from shared.errors import InvalidInput
from shared.settings import Settings

_HOST = re.compile(r"(\[(?P<address>[^\[\]]+)\]|(?P<name>[^\[\]:]+))(:[0-9]{1,5})?")


def check_host(headers: Headers, settings: Settings) -> None:
    """Raise `InvalidInput` for a request to a host that an API without keys does not answer to."""
    if settings.api_keys:
        return
    hosts = headers.getlist("host")
    host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if host is not None:
        name = (host["address"] or host["name"]).lower()
        if is_loopback(name) or name in settings.allowed_hosts:
            return
    raise InvalidInput(
        "Host: without API keys only 127.0.0.1, localhost and [::1] are answered to; "
        "DF_ALLOWED_HOSTS takes more names",
        field="Host",
    )
