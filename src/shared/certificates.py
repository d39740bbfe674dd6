"""Whether TLS can be had with what the environment names: authorities, and a file for keys.

`SSL_CERT_FILE` and `SSL_CERT_DIR` replace the authorities of every HTTP client, and `SSLKEYLOGFILE`
is opened by each. A file that is wrong raises where the first client is made, in an error that does
not name it.
"""

import os
import ssl
from collections.abc import Mapping

AUTHORITIES, KEY_LOG = "SSL_CERT_FILE", "SSLKEYLOGFILE"


def tls_problem(environ: Mapping[str, str] = os.environ) -> str | None:
    """A line with the variable and what is wrong with its file; None where TLS can be had."""
    for variable in (AUTHORITIES, KEY_LOG):
        if path := environ.get(variable):
            try:
                _try(variable, path)
            except ssl.SSLError:
                return f"{variable}: {path}: holds no certificate in PEM"
            except OSError as error:
                return f"{variable}: {path}: {error.strerror or error}"
    return None


def _try(variable: str, path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if variable == AUTHORITIES:
        context.load_verify_locations(cafile=path)
    else:
        context.keylog_filename = path
