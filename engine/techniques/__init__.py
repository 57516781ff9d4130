"""The registry: every module of this package that defines TECHNIQUE is a technique. Adding one adds a file."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from engine.techniques.base import Technique


@functools.cache
def all_techniques() -> tuple[Technique, ...]:
    """Every technique, in the order in which a recipe applies them."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found: list[Technique] = [m.TECHNIQUE for m in modules if hasattr(m, "TECHNIQUE")]
    return tuple(sorted(found, key=lambda t: t.order))


@functools.cache
def technique(key: str) -> Technique | None:
    """The technique called `key`, or None."""
    return next((t for t in all_techniques() if t.key == key), None)
