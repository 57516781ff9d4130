"""The one exception a user reads: what happened, and what to do about it."""


class DynoError(Exception):
    """A failure with a sentence for the user.

    summary: what happened, one sentence. hint: what to do instead, one sentence (may be empty).
    Raise it near the cause; everything between lets it pass.
    """

    def __init__(self, summary: str, hint: str = "") -> None:
        super().__init__(summary, hint)
        self.summary = summary
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.summary} {self.hint}".strip()
