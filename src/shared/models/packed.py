"""Whether this installation can unpack a transformer in a GGUF file."""

from importlib.util import find_spec

from shared.errors import ModelUnavailable

LIBRARY = "gguf"


def check_can_unpack() -> None:
    """Raise `ModelUnavailable` without the library, which is looked for and not imported."""
    if find_spec(LIBRARY) is None:
        raise ModelUnavailable(
            f"a packed transformer needs the package {LIBRARY}, which is not installed here; "
            "install dreamforge[gguf]"
        )
