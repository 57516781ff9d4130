"""What each technique alone does to the bundled model's perplexity on the evaluation text, within stated bounds."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from engine.bench.texts import EVALUATION_TEXT
from engine.errors import DynoError
from engine.paths import bundled_model
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from tests.engine.support import open_session, runnable, score

# Largest change of the perplexity, in percent, up or down: about twice what was measured, so that another processor's
# rounding passes and a mistake in a kernel does not.
BOUNDS = {
    "attention:backend=plain": 0.01, "attention:backend=math": 0.01, "attention:backend=flash": 0.01, "lookup": 0.0,
    "bf16": 0.1, "fp16": 0.05, "autocast:dtype=bf16": 0.3, "autocast:dtype=fp16": 0.05,
    "kv-cache:dtype=fp32": 0.0, "kv-cache:dtype=bf16": 0.1, "kv-cache:dtype=fp16": 0.05, "kv-cache:dtype=int8": 0.1,
    "int8-dynamic": 0.4, "int8-dynamic:head=int8:embedding=int8": 0.4,
    "int8-weight": 0.4, "int8-weight:head=int8:embedding=int8": 0.4,
    "int4-weight:group=32": 1.6, "int4-weight:group=64": 2.8, "int4-weight:group=128": 4.0,
    "int4-weight:group=32:fit=fit": 0.8, "int4-weight:group=64:fit=fit": 3.8, "int4-weight:group=128:fit=fit": 4.2,
    "int4-weight:group=32:head=int8": 1.6, "int4-weight:group=32:head=int4:embedding=int8": 3.0,
    "small-and-fast": 2.6,
}
# Pruning without training afterwards hurts; what it does is shown, not promised. Largest ratio to the plain model's.
PRUNED = {
    "prune-l1:amount=0.2": 1.05, "prune-l1:amount=0.5": 1.4, "prune-l1:amount=0.5:scope=layer": 1.3,
    "prune-wanda:amount=0.5": 1.35, "prune-2-4": 1.9, "prune-random:amount=0.3": 12.0, "prune-layers:amount=0.1": 1.25,
    "prune-heads:amount=0.25": 1.9, "prune-neurons:amount=0.3": 1.9, "prune-neurons:amount=0.3:score=activation": 1.4,
}


STACKS = 30
WIDTH, CHUNKS = 256, 16  # tokens of a chunk, chunks: on fewer tokens int4's rounding is lost in the noise


@dataclass(frozen=True)
class Bundled:
    """The bundled model, and what it scores untouched."""

    session: Session
    text: str
    plain: float

    def ratio(self, recipe: str) -> float:
        """Perplexity under a recipe over the plain model's."""
        self.session.apply(parse_recipe(recipe))
        return score(self.session, self.text, WIDTH, CHUNKS) / self.plain


@pytest.fixture(scope="module")
def bundled() -> Bundled:
    """The bundled model in fp32."""
    session, text = open_session(bundled_model()), EVALUATION_TEXT.read_text(encoding="utf-8")
    return Bundled(session, text, score(session, text, WIDTH, CHUNKS))


def test_the_plain_model_reads_as_it_did_when_the_bounds_were_set(bundled: Bundled) -> None:
    assert bundled.plain == pytest.approx(91.2112, rel=1e-3)


@pytest.mark.parametrize("recipe", list(BOUNDS))
def test_techniques_that_round_change_the_perplexity_no_more_than_stated(bundled: Bundled, recipe: str) -> None:
    assert 100 * abs(bundled.ratio(recipe) - 1) <= BOUNDS[recipe] + 1e-9


def test_stacks_of_rounding_techniques_change_the_perplexity_no_more_than_their_parts_together(
        bundled: Bundled) -> None:
    rng, seen = random.Random(3), set[str]()
    names = [name for name in BOUNDS if name != "small-and-fast"]
    while len(seen) < STACKS:
        chosen = rng.sample(names, rng.randint(2, 4))
        try:
            recipe = Recipe(tuple(options for name in chosen for options in parse_recipe(name).options))
        except DynoError:
            continue  # two of a kind
        if recipe.fingerprint not in seen:
            seen.add(recipe.fingerprint)
            off = 100 * abs(bundled.ratio(",".join(chosen)) - 1)
            assert off <= sum(BOUNDS[name] for name in chosen) + 1e-9, recipe.label


@pytest.mark.parametrize("recipe", list(PRUNED))
def test_pruning_is_shown_as_what_it_is(bundled: Bundled, recipe: str) -> None:
    ratio = bundled.ratio(recipe)
    assert math.isfinite(ratio) and 0.95 < ratio <= PRUNED[recipe]
    assert bundled.session.active is not None
    told = bundled.session.active.report.techniques[0]
    assert told.engaged and told.layers_touched > 0 and told.detail


def test_every_technique_that_runs_here_has_a_bound() -> None:
    held = {options.key for recipe in (*BOUNDS, *PRUNED) for options in parse_recipe(recipe).options}
    assert held == {technique.key for technique in runnable()}


@pytest.mark.parametrize(("better", "worse"), [
    ("prune-l1:amount=0.5", "prune-random:amount=0.3"),  # a criterion beats chance even at nearly twice the zeros
    ("prune-wanda:amount=0.5", "prune-random:amount=0.3"),
    ("prune-neurons:score=activation", "prune-neurons:score=magnitude"),  # what calibrating is for
    ("int8-weight", "int4-weight:group=128"),
    ("int4-weight:group=32", "int4-weight:group=128"),
    ("int4-weight:group=32:fit=fit", "int4-weight:group=32"),
])
def test_the_better_criterion_reads_better(bundled: Bundled, better: str, worse: str) -> None:
    assert bundled.ratio(better) < bundled.ratio(worse)


def test_the_plain_model_scores_the_same_afterwards_to_the_last_bit(bundled: Bundled) -> None:
    bundled.session._built.clear()
    bundled.session.apply(Recipe())
    assert score(bundled.session, bundled.text, WIDTH, CHUNKS) == bundled.plain
