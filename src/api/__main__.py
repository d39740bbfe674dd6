"""`python -m api`. It reads the settings first: a wrong one is reported before slow imports."""

import gc

from shared.linux.prctl import hide_from_others
from shared.settings import settings_or_exit

if __name__ == "__main__":
    hide_from_others()
    settings = settings_or_exit("api")

    # After the settings: this import is slow, by a quarter more if the collector runs meanwhile.
    gc.disable()
    from api.server import serve

    gc.freeze()  # what was imported stays
    gc.enable()
    raise SystemExit(serve(settings))
