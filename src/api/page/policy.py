"""What a browser lets the page do: a Content-Security-Policy for these settings."""

from urllib.parse import urlsplit

from shared.settings import Settings


def content_security_policy(settings: Settings) -> str:
    """Our own files and API, and pictures of the store; no inline code, no frame, no other host."""
    store = _origin(str(settings.s3_public_endpoint or settings.s3_endpoint))
    rules = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        # `blob:` are pictures that the page itself holds: one to start from, and previews.
        "img-src": f"'self' blob: {store}",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
