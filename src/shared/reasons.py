"""Why an exchange over the network failed, in the words of the first layer that has some."""


def reason(error: BaseException) -> str:
    """The text of an error, or of what caused it; the name of its type where none has any.

    A library may wrap an error and leave its text behind: httpx says nothing where a server ends
    the connection within TLS's handshake, and what it wraps does.
    """
    cause: BaseException | None = error
    while isinstance(cause, Exception):  # how a timeout ended its task is no reason
        if text := _text(cause):
            return text
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _text(error: BaseException) -> str:
    """Its own text. An error that has only another one inside shows that one's `repr`."""
    inside = error.args[0] if len(error.args) == 1 else None
    return "" if isinstance(inside, BaseException) else str(error).strip()
