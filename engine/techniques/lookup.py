"""Speculative decoding by prompt lookup: what followed the last words the time before is proposed as what follows now.

The model checks all proposed tokens in one pass and keeps those it would have chosen itself, so the text is the one
it would have written without (Saxena, "Prompt Lookup Decoding", 2023; Leviathan et al., 2023, for the check). It pays
where the answer repeats the question: summaries, edits, code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.techniques.base import Effect, Options, Technique, option
from engine.words import agreed, counted

if TYPE_CHECKING:
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class LookupOptions(Options):
    """ngram: tokens that must match. drafts: tokens proposed at most."""

    key: ClassVar[str] = "lookup"
    ngram: int = option(2, "Match", "How many of the last tokens must have stood in the text before.",
                          unit="tokens", low=1, high=6, step=1)
    drafts: int = option(5, "Proposal", "How many of the tokens that followed are proposed at once.",
                           unit="tokens", low=1, high=7, step=1)


class PromptLookup(Technique):
    """Proposes tokens from the text itself and lets the model check them together."""

    order = 80
    label = "Prompt lookup"
    group = "Decoding"
    summary = "Guess the next tokens from the text so far and check them in one pass. The text stays the same."
    options_type = LookupOptions

    def short(self, options: Options) -> str:
        assert isinstance(options, LookupOptions)
        usual = options == LookupOptions()
        return "lookup" if usual else f"lookup {options.ngram}/{options.drafts}"

    def apply(self, options: Options, draft: Draft) -> Effect:
        from engine.techniques.draft import Lookup

        assert isinstance(options, LookupOptions)
        ngram, drafts = options.ngram, options.drafts
        draft.lookup = Lookup(ngram, drafts)
        # The native step rounds a row the same whatever is beside it (docs/design.md).
        exact = draft.device.native or (draft.dtype == "fp32" and draft.autocast is None)
        ties = "" if exact else (
            f" In {draft.autocast or draft.dtype} two words that are nearly as likely may fall the other way.")
        where = agreed(ngram, "one", f"{ngram}")
        return Effect((), f"Up to {counted(drafts, 'token')} {agreed(drafts, 'is', 'are')} proposed where the "
                      f"last {where} stood before, and checked in one pass. The share that was right stands under each "
                      f"reply.{ties}")


TECHNIQUE = PromptLookup()
