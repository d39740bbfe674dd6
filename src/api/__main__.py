"""`python -m api`. Reads the settings first: a wrong one is told before anything heavy loads."""

from shared.settings import settings_or_exit

if __name__ == "__main__":
    settings = settings_or_exit("api")

    from api.server import serve  # after the settings, see above

    raise SystemExit(serve(settings))
