"""The one place that touches pynvml: opens it, and turns its failures into sentences.

pynvml carries no type hints and is imported late (40 ms), so the module object is passed around as Any.
Return codes are those of nvmlReturn_t in NVIDIA's nvml.h.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

_NOT_SUPPORTED, _FUNCTION_NOT_FOUND, _LOST, _RESET_REQUIRED, _VERSION_MISMATCH = 3, 13, 15, 16, 25

NOT_OFFERED = "The driver does not offer this for this card."
TOO_OLD = "The installed driver, or nvidia-ml-py, is too old to offer this."
_REASONS = {
    _NOT_SUPPORTED: NOT_OFFERED,
    4: "The system does not permit this program to read this.",
    10: "The driver did not answer in time.",
    _FUNCTION_NOT_FOUND: TOO_OLD,
    _LOST: "The card stopped answering: the driver lost it, and it may come back after a restart of the computer.",
    _RESET_REQUIRED: "The card must be reset before it answers again.",
    21: "The driver has no data on this yet.",
    _VERSION_MISMATCH: NOT_OFFERED,
    27: "The card is not ready yet.",
}
_PERMANENT = {_NOT_SUPPORTED, 4, _FUNCTION_NOT_FOUND, _VERSION_MISMATCH}
_TRY_ANOTHER = {2, _NOT_SUPPORTED, _FUNCTION_NOT_FOUND, _VERSION_MISMATCH}

_UNAVAILABLE = {
    9: "No NVIDIA GPU in use: the NVIDIA driver is not loaded, so the CPU is shown.",
    12: "No NVIDIA GPU here: no NVML library was found, so the CPU is shown.",
    4: "No NVIDIA GPU in use: the system does not permit this program to ask the driver, so the CPU is shown.",
    _FUNCTION_NOT_FOUND: "No NVIDIA GPU in use: the installed NVML library is too old, so the CPU is shown.",
    18: "No NVIDIA GPU in use: the driver was updated and waits for a restart of the computer, so the CPU is shown.",
}
NO_CARDS = "No NVIDIA GPU here: the driver is loaded but reports no card, so the CPU is shown."
NO_PACKAGE = "No NVIDIA GPU in use: the Python package nvidia-ml-py is not installed, so the CPU is shown."
NO_VALUE = "The driver gave no value for this."


class NvmlUnavailable(Exception):
    """NVML cannot be used at all; the message is one sentence for the user."""


class NoReading(Exception):
    """A call worked and yet there is no number to show; the message is one sentence for the user."""


@dataclass(frozen=True)
class Failure:
    """Why one call failed. permanent: do not ask again. lost: the whole card is gone. try_another: an older or newer
    call for the same number may do."""

    reason: str
    permanent: bool = False
    lost: bool = False
    try_another: bool = False


def open_library() -> Any:
    """Load and initialise NVML and return the pynvml module; `close_library` undoes it.

    Takes 1 ms without a driver and up to seconds with one. Raises NvmlUnavailable with the sentence to show.
    """
    try:
        nv: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise NvmlUnavailable(NO_PACKAGE) from error
    try:
        nv.nvmlInit()
    except Exception as error:  # WSL and half-removed drivers fail in ways of their own, not only with NVMLError
        raise NvmlUnavailable(_why_unavailable(error)) from error
    try:
        count = int(nv.nvmlDeviceGetCount())
    except Exception as error:
        close_library(nv)
        raise NvmlUnavailable(_why_unavailable(error)) from error
    if count == 0:
        close_library(nv)
        raise NvmlUnavailable(NO_CARDS)
    return nv


def close_library(nv: Any) -> None:
    """Shut NVML down; pynvml and the library count their users, so torch's own use goes on."""
    try:
        nv.nvmlShutdown()
    except Exception:  # a library that fails while it leaves has nothing more to tell anyone
        return


def explain(error: Exception) -> Failure:
    """What a failed call means. Takes NVMLError, NoReading, and whatever a broken driver makes pynvml raise.

    An AttributeError means that this pynvml does not know the call.
    """
    if isinstance(error, NoReading):
        return Failure(str(error))
    if isinstance(error, AttributeError):
        return Failure(TOO_OLD, permanent=True, try_another=True)
    code = getattr(error, "value", None)
    if not isinstance(code, int):
        return Failure(f"The driver's answer made no sense ({type(error).__name__}).")
    reason = _REASONS.get(code) or f"The driver reported an error ({error})."
    return Failure(reason, code in _PERMANENT, code in (_LOST, _RESET_REQUIRED), code in _TRY_ANOTHER)


def _why_unavailable(error: Exception) -> str:
    code = getattr(error, "value", None)
    if isinstance(code, int) and code in _UNAVAILABLE:
        return _UNAVAILABLE[code]
    detail = str(error) or type(error).__name__
    return f"No NVIDIA GPU in use: the driver could not be asked ({detail}), so the CPU is shown."
