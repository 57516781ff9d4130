"""What one can have a model do with a text: a prompt and how its result is shown, one JSON file each.

The files of resources/scenarios are found by being there. A file that cannot be used is left out and named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.chat_messages import Sampling
from engine.errors import DynoError, reason
from engine.paths import RESOURCES

SCENARIOS = RESOURCES / "scenarios"
WAYS = ("chat", "continue", "text")
_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Field:
    """Something to choose beside the text: its value stands in the prompt for "{key}". free: any words will do."""

    key: str
    title: str
    choices: tuple[str, ...]
    free: bool = False


@dataclass(frozen=True)
class Scenario:
    """way: "chat" answers the conversation, "continue" goes on with the text as it stands and needs no chat template,
    "text" fills the prompt with one text of any length. view: the module of gui/chat/results that shows the result, ""
    for the text itself. parameters: how many a model should have at least for this to work. combine, reply_ratio: see
    engine.chat_messages.WorkOnText. sampling: fields of a Sampling that differ from the user's. examples: texts to
    try it on."""

    key: str
    title: str
    about: str
    order: int
    way: str
    hint: str = ""
    prompt: str = ""
    combine: str = ""
    system: str = ""
    view: str = ""
    parameters: int = 0
    reply_ratio: float = 0.4
    fields: tuple[Field, ...] = ()
    examples: tuple[str, ...] = ()
    sampling: Mapping[str, float] | None = None

    def filled(self, values: Mapping[str, str], prompt: str | None = None) -> str:
        """The prompt with the chosen values in it; "{text}" stays."""
        known = {field.key: values.get(field.key) or field.choices[0] for field in self.fields}
        return _NAME.sub(lambda found: known.get(found[1], found[0]), self.prompt if prompt is None else prompt)

    def asked(self, text: str, values: Mapping[str, str]) -> str:
        """What the model is asked, with the text in it."""
        return self.filled(values).replace("{text}", text) if self.way == "text" else text

    def sampled(self, sampling: Sampling) -> Sampling:
        """The user's sampling with what this needs."""
        changed: dict[str, Any] = dict(self.sampling or {})
        return replace(sampling, **changed)


def read_scenarios(folder: Path = SCENARIOS) -> tuple[tuple[Scenario, ...], tuple[str, ...]]:
    """All scenarios in their order, and a sentence for each file that cannot be used."""
    found, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_scenario(path))
        except DynoError as error:
            problems.append(str(error))
    return tuple(sorted(found, key=lambda scenario: (scenario.order, scenario.key))), tuple(problems)


def read_scenario(path: Path) -> Scenario:
    """One file; its name is the scenario's key. Raises DynoError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        fields = tuple(Field(**{**field, "choices": tuple(field["choices"])}) for field in raw.pop("fields", ()))
        examples = tuple(str(text) for text in raw.pop("examples", ()))
        scenario = Scenario(key=path.stem, fields=fields, examples=examples, **raw)
        Sampling(**(scenario.sampling or {}))  # type: ignore[arg-type]  # names are checked here, values in the engine
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DynoError(f"The scenario {path.name} cannot be read: {reason(error)}.",
                        "Compare it with the others in its folder.") from error
    wrong = ("its way is none of " + ", ".join(WAYS) if scenario.way not in WAYS else
             "its prompt has no {text}" if scenario.way == "text" and "{text}" not in scenario.prompt else
             "its combine has no {text}" if scenario.combine and "{text}" not in scenario.combine else
             "a field has no choices" if not all(field.choices for field in fields) else
             "its reply_ratio is not between 0 and 4" if not 0 < scenario.reply_ratio <= 4 else
             "results are combined only where they are shorter than half of the text: reply_ratio below 0.45"
             if scenario.combine and scenario.reply_ratio >= 0.45 else "")
    if wrong:
        raise DynoError(f"The scenario {path.name} cannot be used: {wrong}.", "Compare it with the others.")
    return scenario
