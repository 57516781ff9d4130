"""Every kind of job, what the charts call it, and the generator that does it: a new kind adds a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.comparison_job import comparison_job
from engine.jobs import (
    EngineState,
    JobSteps,
    benchmark_job,
    evaluate_job,
    explain_job,
    export_job,
    generate_job,
    load_job,
)
from engine.messages import (
    Evaluate,
    Explain,
    ExportModel,
    Generate,
    Job,
    LoadModel,
    PreviewData,
    ProbeData,
    RunBenchmark,
    RunComparison,
    Train,
    WorkOnText,
)
from engine.text_work import text_job
from engine.training_jobs import training_job


@dataclass(frozen=True)
class JobKind:
    """mark: the word beside its line in the monitor's charts. steps(state, job): its generator."""

    mark: str
    steps: Callable[[EngineState, Any], JobSteps]


_KINDS: dict[type, JobKind] = {
    LoadModel: JobKind("load", load_job),
    Generate: JobKind("reply", generate_job),
    WorkOnText: JobKind("reply", text_job),
    Evaluate: JobKind("score", evaluate_job),
    Explain: JobKind("profile", explain_job),
    RunBenchmark: JobKind("benchmark", benchmark_job),
    RunComparison: JobKind("comparison", comparison_job),
    Train: JobKind("training", training_job),
    PreviewData: JobKind("preview", training_job),
    ProbeData: JobKind("data probe", training_job),
    ExportModel: JobKind("export", export_job),
}


def kind_of(job: Job) -> JobKind:
    """The kind that a job is of."""
    return _KINDS[type(job)]
