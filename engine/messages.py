"""What goes to the engine thread and what comes back: frozen dataclasses, one closed union each.

Commands are jobs (queued, one after the other) or control (looked at between any two steps of a job). Every job ends
in exactly one of Finished, Cancelled, Failed. Times named t_s are time.monotonic() seconds. Nothing here holds a
tensor or an exception object: either would keep memory of the device alive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.chat_messages import SAMPLING_LIMITS, ContextCounted, CountContext, PartBegun, Sampling, WorkOnText
from engine.comparing import ComparisonResult, LaneEvent, check_lanes
from engine.errors import DynoError
from engine.measurements import BenchPlan, BenchResult, BenchRow
from engine.models.chat import ChatMessage
from engine.recipe import Recipe
from engine.reports import (
    EngagedReport,
    GenerationStats,
    LayerReport,
    ModelInfo,
    PerplexityResult,
    SpeedReport,
    TechniqueReport,
    TimeShare,
    TokenPiece,
)
from engine.train_commands import FinishTraining, PreviewData, ProbeData, Train
from engine.train_events import DataPreview, ProbeReport, TrainEvent, TrainResult
from engine.train_plan import TrainPlan

__all__ = [
    "SAMPLING_LIMITS", "ApplyRecipe", "BenchPlan", "BenchResult", "BenchRow", "BenchRowDone", "BenchSample",
    "BenchStarted", "Cancel", "Cancelled", "ChatMessage", "Command", "Comparing", "ComparisonResult",
    "Compiling", "ContextCounted", "CountContext",
    "DataPreview", "EngagedReport", "Evaluate", "Event", "Explain", "ExportModel", "Failed",
    "FinishTraining", "Finished", "Generate", "GenerationStats", "Job", "JobStarted", "LayerReport", "LoadModel",
    "ModelInfo", "ModelLoaded",
    "PartBegun", "PerplexityResult", "PreviewData", "ProbeData", "ProbeReport", "Progress", "QualityProbe",
    "RecipeApplied", "RecipeFailed", "RunBenchmark", "RunComparison", "Sampling", "SetThreads", "Shutdown",
    "SpeedReport", "Switched",
    "TechniqueReport", "TimeShare", "TokenPiece", "Tokens", "Train", "TrainEvent", "TrainPlan", "TrainResult",
    "Training", "TurnsDropped", "WorkOnText",
]


# ---------------------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True)
class LoadModel:
    """Open a model folder and build it with `recipe`. device None: the preferred one."""

    job_id: int
    folder: str
    recipe: Recipe = field(default_factory=Recipe)
    device: str | None = None


@dataclass(frozen=True)
class Generate:
    """Continue `prompt`, or answer the last turn of `messages` (exactly one of the two is given).

    alternatives: how many of the likeliest tokens to report with each. submitted_s: time.perf_counter() of the request.
    pace_tokens_per_s: hold the reply back to so many, for eyes to follow; 0: as fast as it can.
    """

    job_id: int
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    alternatives: int = 0
    submitted_s: float = 0.0
    pace_tokens_per_s: float = 0.0


@dataclass(frozen=True)
class Evaluate:
    """Perplexity of the active recipe on a text, in disjoint chunks of `context` tokens (all, or the first few)."""

    job_id: int
    text: str
    context: int = 512
    chunks: int | None = None


@dataclass(frozen=True)
class Explain:
    """Profile a few tokens of the active recipe and say where their time goes. context: tokens already in the cache."""

    job_id: int
    context: int = 128


@dataclass(frozen=True)
class RunBenchmark:
    """Measure a plan on the loaded model; the active recipe stays what it is. Progress is in hundredths of a row.

    history: the database that keeps the run, "" for none. resume: go on with an unfinished run of this plan and model
    where the history holds one that nobody runs (a row that had failed is tried again). title: of the run in the
    history; run_id: which one to go on with, 0 for the newest.
    """

    job_id: int
    plan: BenchPlan
    history: str = ""
    resume: bool = False
    title: str = ""
    run_id: int = 0


@dataclass(frozen=True)
class RunComparison:
    """Answer the last of `messages` with two to four recipes in turns, a token each (engine/comparing.py); the first
    recipe is the base. The active recipe and the conversation stay what they are. Raises DynoError."""

    job_id: int
    recipes: tuple[Recipe, ...]
    messages: tuple[ChatMessage, ...]
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        check_lanes(self.recipes)


@dataclass(frozen=True)
class ExportModel:
    """Write the loaded model, pruned as its active recipe prunes it. path: a file for "gguf-f16",
    "gguf-q8_0" and "gguf-f32", a folder for "safetensors"."""

    job_id: int
    path: str
    format: str


@dataclass(frozen=True)
class ApplyRecipe:
    """Control: switch to this recipe at the next token. A newer one replaces one that has not been built yet."""

    recipe: Recipe


@dataclass(frozen=True)
class SetThreads:
    """Control: number of threads of the CPU kernels; None lets the engine choose for the model. Raises DynoError."""

    threads: int | None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise DynoError(f"The number of threads is {self.threads}, outside 1 to 1,024.",
                            "Choose at least one, and no more than the processor has cores.")


@dataclass(frozen=True)
class Cancel:
    """Control: end a job at its next step."""

    job_id: int


@dataclass(frozen=True)
class Shutdown:
    """Control: end the running job and the engine thread."""


Job = (LoadModel | Generate | WorkOnText | Evaluate | Explain | RunBenchmark | RunComparison | Train | PreviewData
       | ProbeData | ExportModel)
Command = Job | FinishTraining | ApplyRecipe | SetThreads | CountContext | Cancel | Shutdown

# ------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class JobStarted:
    """The engine took the job from its queue."""

    job_id: int
    t_s: float
    kind: str


@dataclass(frozen=True)
class Progress:
    """How far a job is, in units of its own. Only the newest one of a job is kept. job_id 0: building a recipe."""

    job_id: int
    t_s: float
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class ModelLoaded:
    """A model is ready, built with the recipe of the report."""

    job_id: int
    t_s: float
    model: ModelInfo
    report: EngagedReport


@dataclass(frozen=True)
class Tokens:
    """New tokens of a reply, all made with one recipe (its fingerprint); neighbours merge in the outbox."""

    job_id: int
    t_s: float
    recipe: str
    pieces: tuple[TokenPiece, ...]

    @property
    def text(self) -> str:
        """The text of all pieces."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class TurnsDropped:
    """The oldest `count` turns did not fit into the context and were left out of this reply's prompt."""

    job_id: int
    t_s: float
    count: int


@dataclass(frozen=True)
class Switched:
    """A reply went on with another recipe. tokens_reread: tokens whose keys and values were computed again."""

    job_id: int
    t_s: float
    old: str
    new: str
    build_s: float
    tokens_reread: int
    reread_s: float


@dataclass(frozen=True)
class RecipeApplied:
    """The active recipe changed."""

    t_s: float
    report: EngagedReport


@dataclass(frozen=True)
class RecipeFailed:
    """A recipe could not be built; `kept` is still active."""

    t_s: float
    recipe: Recipe
    kept: Recipe
    summary: str
    hint: str
    details: str = ""


@dataclass(frozen=True)
class Compiling:
    """torch.compile works in the background on the active recipe; `elapsed_s` since it began. Its end is a
    RecipeApplied with the new report."""

    t_s: float
    elapsed_s: float


@dataclass(frozen=True)
class QualityProbe:
    """Perplexity of the active recipe on the fixed probe text, scored while the engine was idle."""

    t_s: float
    result: PerplexityResult


@dataclass(frozen=True)
class BenchStarted:
    """A benchmark begins. run_id: its number in the history, 0 for none; rows: those an earlier run had finished."""

    job_id: int
    t_s: float
    run_id: int
    plan: BenchPlan
    rows: tuple[BenchRow, ...] = ()


@dataclass(frozen=True)
class BenchSample:
    """One run of a speed test, as it came. lane: the recipe's place in the plan. counted: it is no warm-up."""

    job_id: int
    t_s: float
    lane: int
    test: str
    tokens_per_s: float
    number: int
    counted: bool


@dataclass(frozen=True)
class BenchRowDone:
    """A row of a benchmark is finished (row.error: why it could not be), and stands in the history."""

    job_id: int
    t_s: float
    row: BenchRow


@dataclass(frozen=True)
class Comparing:
    """Lanes of a comparison went on (engine/comparing.py), in this order; neighbours merge in the outbox."""

    job_id: int
    t_s: float
    what: tuple[LaneEvent, ...]


@dataclass(frozen=True)
class Training:
    """Something happened in a training run (engine/train_events.py); its steps come as Progress."""

    job_id: int
    t_s: float
    what: TrainEvent


@dataclass(frozen=True)
class Finished:
    """A job is done."""

    job_id: int
    t_s: float
    result: (GenerationStats | PerplexityResult | SpeedReport | BenchResult | ComparisonResult | TrainResult
             | DataPreview | ProbeReport | None) = None


@dataclass(frozen=True)
class Cancelled:
    """A job was stopped by the user; what it had made stands."""

    job_id: int
    t_s: float
    result: GenerationStats | BenchResult | ComparisonResult | TrainResult | None = None


@dataclass(frozen=True)
class Failed:
    """A job ended by an error: a sentence of what happened, one of what to do, and the traceback as text."""

    job_id: int
    t_s: float
    summary: str
    hint: str
    details: str = field(default="", repr=False)


Event = (JobStarted | Progress | ModelLoaded | Tokens | TurnsDropped | PartBegun | ContextCounted | Switched
         | RecipeApplied | RecipeFailed
         | Compiling | QualityProbe | BenchStarted | BenchSample | BenchRowDone | Comparing | Training
         | Finished | Cancelled | Failed)
