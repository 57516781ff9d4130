"""The sandbox in which a checkpoint's chat template runs: a template is somebody else's program.

It may refuse a conversation, and it may be broken; it gets at nothing, and no single step of it can ask for
gigabytes. It knows no tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST = 1_000_000  # characters, items, or a number's base
_FILLING = ("ljust", "rjust", "center", "zfill", "expandtabs")


class _Generation(Extension):
    """Templates mark what the assistant wrote ({% generation %}) for whoever trains on it; the text is the same."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox bounds ranges and attributes, but not how large a text or a number a single operation can make.
    What a loop adds up is not bounded here either."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        elif operator == "**" and not (abs(left) <= _MOST and abs(right) <= 64):
            raise SecurityError("a number is too large")
        elif operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, (str, list, tuple)) and len(one) * times > _MOST:
                    raise SecurityError("a text is too long")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths(value.__self__)
        return wrapped

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _FILLING) and super().is_safe_attribute(obj, attr, value)


def environment() -> ImmutableSandboxedEnvironment:
    """Where a chat template is compiled and run."""
    made = _Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    made.filters["tojson"] = _to_json  # Jinja's own escapes what HTML escapes
    made.filters["format"] = _format
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def _format(text: str, *arguments: Any, **named: Any) -> str:
    """Jinja's filter of that name, within bounds."""
    _check_widths(str(text))
    return str(text) % (named or arguments)


def _check_widths(text: str) -> None:
    if re.search(r"\d{5}|%[-#0 +]*\*|\{[^}]*:[^}]*\{", text):
        raise SecurityError("a format is too wide")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
