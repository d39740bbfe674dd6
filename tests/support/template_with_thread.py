"""Imports that leave a second thread behind."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
