"""What a view of a result is. A module of this package has make(), which returns one."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget


class Result(QWidget):
    """Shows what a reply says in a form of its own."""

    def read(self, text: str) -> bool:
        """Take in a reply without its reasoning; whether it can be shown. Where not, the view says why, and the text
        stays below it."""
        raise NotImplementedError
