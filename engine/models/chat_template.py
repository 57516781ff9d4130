"""The sandbox in which a checkpoint's chat template runs: a template is somebody else's program.

It may refuse a conversation, and it may be broken; it gets at nothing, and no single step of it can ask for
gigabytes. It knows no tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST = 1_000_000  # characters, items, or a number's base
_STEPS = 200_000  # of loops and calls, for a conversation: a second's worth
_COUNTED = "counted items"  # no template can write this filter's name
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


def _joined(parts: Iterable[Any]) -> str:
    """The parts as one text. Raises SecurityError where it is too long."""
    texts, length = [], 0
    for part in parts:
        texts.append(str(part))
        length += len(texts[-1])
        if length > _MOST:
            raise SecurityError("a text is too long")
    return "".join(texts)


def _replaced(text: str, old: Any, new: Any, count: int = -1) -> str:
    old, new = str(old), str(new)
    if len(text) + text.count(old) * max(0, len(new) - len(old)) > _MOST:
        raise SecurityError("a text is too long")
    return text.replace(old, new, count)


def _with_between(between: str, parts: Iterable[Any]) -> str:
    held = [str(part) for part in parts]
    return _joined(piece for i, part in enumerate(held) for piece in ((between, part) if i else (part,)))


def _join(parts: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """Jinja's filter of that name, within bounds."""
    if attribute is not None:
        parts = [part[attribute] for part in parts]
    return _with_between(str(d), parts)


class _Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox bounds ranges and attributes, but neither how large a text or a number an operation can make,
    nor how often loops inside each other go round."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    steps_left = _STEPS
    concat = staticmethod(_joined)  # of what the template writes

    def begin(self) -> None:
        """A conversation is about to be rendered."""
        self.steps_left = _STEPS

    def count(self, number: int = 1) -> None:
        """A loop went round, or something was called. Raises SecurityError where that goes on for too long."""
        self.steps_left -= number
        if self.steps_left < 0:
            raise SecurityError("it takes too many steps")

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop."""
        for item in items:
            self.count()
            yield item

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None).set_lineno(loop.lineno)
        return tree

    def compiled(self, source: str) -> Template:
        """A template whose joined texts are bounded: Jinja's code asks its own module for how to join."""
        template: Template = self.from_string(source)
        names = template.root_render_func.__globals__
        names |= {"concat": _joined, "str_join": _joined, "markup_join": _joined}
        return template

    def call(self, context: Context, obj: Any, *arguments: Any, **named: Any) -> Any:
        self.count()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name in ("replace", "join"):
            return (_replaced if name == "replace" else _with_between)(owner, *arguments, **named)
        return super().call(context, obj, *arguments, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        elif operator == "**" and not (abs(left) <= _MOST and abs(right) <= 64):
            raise SecurityError("a number is too large")
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            if len(left) + len(right) > _MOST:
                raise SecurityError("a text is too long")
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


def compiled(source: str) -> Callable[..., str]:
    """A chat template as a function of the names that it may use. Raises TemplateError for one that is none; what it
    raises when it is run is its own affair."""
    surroundings = _environment()
    template = surroundings.compiled(source)

    def render(**names: Any) -> str:
        surroundings.begin()
        return str(template.render(**names))

    return render


def _environment() -> _Bounded:
    made = _Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    made.filters["tojson"] = _to_json  # Jinja's own escapes what HTML escapes
    made.filters["format"] = _format
    made.filters["replace"] = lambda text, old, new, count=None: _replaced(str(text), old, new, -1 if count is None
                                                                            else count)
    made.filters["join"] = _join
    made.filters[_COUNTED] = made.counted
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
