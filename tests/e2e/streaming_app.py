"""The whole application, replying without end, telling on standard output what it has shown so far.

Started and killed by test_kill.py. Each line: milliseconds since the epoch, characters of the reply taken in so far.
"""

import sys
import time

from PySide6.QtWidgets import QApplication

from engine.messages import Failed, Tokens
from engine.paths import user_data
from gui.app import Application

model, prompt = sys.argv[1:]
app = QApplication([])
application = Application(app, user_data())
application.settings.set("model", model)
application.settings.set("sampling/max_tokens", 100_000)
application.start()
chat = application.window.pages["chat"]
chat.new_chat()
received = 0


def tell(event: object) -> None:
    """Say how much of the reply has come in."""
    global received
    if isinstance(event, Tokens):
        received += len(event.text)
        print(f"{time.time() * 1000:.0f} {received}", flush=True)
    elif isinstance(event, Failed):
        print(event.summary, file=sys.stderr)
        app.exit(1)


application.bridge.received.connect(tell)
chat.send(prompt)
app.exec()
