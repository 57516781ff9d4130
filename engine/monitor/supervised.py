"""Keeps a failing source from harming the others: its series show a gap and a reason, and the log one line."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from engine.monitor.series import SeriesInfo
from engine.monitor.source import Sink, Source, Tick

log = logging.getLogger(__name__)


class Supervised:
    """A source that never raises. infos and notes: what it said last, or why it failed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.infos: tuple[SeriesInfo, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._logged = False

    def sample(self, tick: Tick, sink: Sink) -> None:
        """Sample; after a failure it is tried again at the next tick, and logged only the first time."""
        try:
            self.source.sample(tick, sink)
            self.infos, self.notes = self.source.series(), self.source.notes()
        except Exception as error:  # whatever a driver or a callable raises, the sampler goes on
            reason = f"{self.source.name} could not be read ({type(error).__name__}: {error})."
            if not self._logged:
                self._logged = True
                log.warning("%s", reason, exc_info=True)
            self.infos = tuple(replace(info, reason_missing=reason) for info in self._known_series())
            self.notes = (reason,)
            for info in self.infos:
                sink.put(info.key, tick.time_s, math.nan)

    def close(self) -> None:
        """Close the source; a failure is logged, as nothing depends on it any more."""
        try:
            self.source.close()
        except Exception:
            log.warning("%s could not be closed", self.source.name, exc_info=True)

    def _known_series(self) -> tuple[SeriesInfo, ...]:
        """The source's series, or those it named last when even that fails."""
        try:
            return self.source.series()
        except Exception:  # the failure at hand is being reported already
            return self.infos
