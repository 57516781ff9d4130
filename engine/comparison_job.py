"""The engine thread's part in a comparison: a prompt made of messages, and what the lanes do told as events."""

from __future__ import annotations

import time

from engine.bench.watch import Preparing, Watched, watch
from engine.comparing import ComparisonResult
from engine.context import fit_messages, reply_reserve
from engine.jobs import EngineState, JobSteps
from engine.messages import Comparing, Progress, RunComparison


def comparison_job(state: EngineState, command: RunComparison) -> JobSteps:
    """Watch the recipes write; neither the active recipe nor the conversation's cache is touched."""
    session, job_id = state.loaded(), command.job_id
    context = session.config.context
    reserve = reply_reserve(command.sampling.max_tokens, context)
    ids, _dropped = fit_messages(session.tokenizer, command.messages, context, reserve)
    steps = watch(session, Watched(command.recipes, ids, command.sampling, state.set_threads_for,
                                   stopping=lambda: state.stopping or job_id in state.cancelled))
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                result: ComparisonResult = finished.value
                return result
            now_s = time.monotonic()
            if isinstance(step, Preparing):
                label = command.recipes[step.lane].label
                yield Progress(job_id, now_s, f"{label}: {step.stage[:1].lower()}{step.stage[1:]}", step.done,
                               step.total)
            else:
                yield Comparing(job_id, now_s, (step,))
    finally:
        steps.close()
        state.set_threads()
