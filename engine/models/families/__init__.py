"""The architectures that our decoder runs: every module of this package that defines FAMILY. Adding one adds a file.

A family knows how config.json spells the features of engine/models/config.py and what the checkpoint calls its
tensors. The decoder knows neither.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from engine.models.families.base import Family


@functools.cache
def _families() -> dict[str, Family]:
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found: list[Family] = [m.FAMILY for m in modules if hasattr(m, "FAMILY")]
    return {name: family for family in sorted(found, key=lambda f: f.order) for name in family.names}


def family_of(model_type: object) -> Family | None:
    """The family that reads a `model_type` of config.json, None where our decoder runs none of that name."""
    return _families().get(model_type) if isinstance(model_type, str) else None


def supported() -> tuple[str, ...]:
    """Every `model_type` that our decoder runs."""
    return tuple(_families())
