"""`python -m api`. It reads the settings first: a wrong one is reported before slow imports."""

from shared.linux.prctl import hide_from_others
from shared.settings import settings_or_exit

if __name__ == "__main__":
    hide_from_others()
    settings = settings_or_exit("api")

    from api.server import serve  # after the settings: this import is slow

    raise SystemExit(serve(settings))
