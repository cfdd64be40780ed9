"""Which method fits a problem: what is measured of it, and rules on these figures, each with its source."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike

from fittedq.actions.base import Box
from fittedq.baselines.linear_model import LinearModel
from fittedq.baselines.named import recorded
from fittedq.data.checks.base import LOOK_HERE
from fittedq.data.checks.closed_loop import ClosedLoop
from fittedq.data.checks.coverage import Coverage
from fittedq.data.checks.floor import Floor
from fittedq.data.checks.lessons import checks_of
from fittedq.data.checks.markov import Markov
from fittedq.data.dataset import Dataset
from fittedq.envs.native import AbstractPhysics
from fittedq.envs.plant import AbstractPlant
from fittedq.errors import plural

MOST_ENDED = 0.02
"""Share of samples under random actions that end an episode for good: from here a plant falls over when it is left
alone. The pendulum, the tanks and cstr have none, hvac .8 %, the cart-pole 10 %. Distillation has 8 %, and the preset
for plants is ahead there all the same (benchmarks/results/advise.json)."""
SMALL_STATE, SMALL_ACTION = 4, 1
"""Sizes of the observation and the action up to which SAC is as good as any, and in minutes: Pendulum-v1, 5 of 5 seeds
in 10,000 steps (benchmarks/results/pendulum)."""
PER_SECOND = {"sac": 185.0, "auto": 40.0}
"""Steps a second on one machine of two cores: benchmarks/results/end_to_end.json for SAC, results/auto for `auto`."""
MANY_ACTIONS = 3
"""Actions from which a policy that imitates solved argmaxes is ahead of one that climbs q: HalfCheetah-v5's log, six
actions, 6,763 to 5,744 and 6,232; with one action, the pendulum's log, -149 and -147
(benchmarks/results/offline_halfcheetah, offline_pendulum)."""
WIDE_GAP = 0.05
"""Median distance of a policy from its critic's maximum, a share of q's range: `Agent.gap` calls a policy good below.
The pendulum's fitted policies have .02, and SAC on Hopper .2 (benchmarks/results/gap)."""
LINEAR = 0.99
"""Share of the change of the state that a linear model explains, from which an LQR belongs beside: on the incubator's
log, where .99 of two states of three is explained, it was ahead of every learned controller (incubator.json)."""


@final
@dataclass(frozen=True)
class Facts:
    """What was measured of a problem, and what its user says."""

    rows: int
    state: int
    """Numbers in an observation."""
    actions: int
    """m, the action's dimension."""
    joined: bool
    """Whether limits join several actions, or actions are whole numbers."""
    ended: float
    """Share of the samples that end an episode for good."""
    noise: float | None
    """Deviation of r + γ V(s') that (s, a) does not tell, beside that of V over the states."""
    model_error: float | None
    """Share of the change of the state that no model of (s, a) explains, held out: the median of its coordinates."""
    linear: float | None
    """Share of it that a linear model explains: the median."""
    history: int | None
    """Observations that make a state; 1 where the log's description has as many."""
    covered: float | None
    """How much of the action's box was tried at like states; uniform actions: 1."""
    foreseen: float | None
    """R² of the actions, told from what was seen."""
    log: bool
    """There is a log alone, and nothing may be tried."""
    blind: bool
    """The log does not say what other actions would have done."""
    physics: bool
    """The environment's step can be differentiated."""
    sample_seconds: float | None
    """What a step of the environment takes."""
    gap: float | None
    """How far a first policy is from the maximum of its critic: median share of q's range, at least."""
    steps: int
    """Samples that may be taken."""
    follows: tuple[str, ...]
    """What is to follow what, in the words of `--error`."""
    hours: float
    """Hours that learning may take."""

    @staticmethod
    def of(
        data: Dataset,
        plant: AbstractPlant | None,
        *,
        steps: int,
        follows: tuple[str, ...],
        hours: float,
        sample_seconds: float | None = None,
        gap: float | None = None,
    ) -> Facts:
        """What the checks of `data/checks` measure on these rows, and a linear model."""
        checks = checks_of(data)
        found = {type(check): check for check in checks}
        floor, markov = found.get(Floor), found.get(Markov)
        coverage, loop = found.get(Coverage), found.get(ClosedLoop)
        limits = data.action_set if plant is None else plant.action_set
        explained = LinearModel.of_data(data).explained(data) if len(data) > data.obs_size + data.action_size else []
        model = [error[0] for error in markov.errors] if isinstance(markov, Markov) else []
        return Facts(
            rows=len(data),
            state=data.obs_size,
            actions=data.action_size,
            joined=not isinstance(limits, Box),
            ended=float(data.columns["terminated"][:].mean()),
            noise=floor.noise / floor.spread if isinstance(floor, Floor) and floor.spread > 0 else None,
            model_error=_median(model),
            linear=_median(explained),
            history=_needed(markov) if isinstance(markov, Markov) else None,
            covered=coverage.least if isinstance(coverage, Coverage) else None,
            foreseen=loop.r2[loop.worst] if isinstance(loop, ClosedLoop) else None,
            log=plant is None,
            blind=plant is None
            and any(isinstance(one, ClosedLoop | Coverage) and one.verdict == LOOK_HERE for one in checks),
            physics=plant is not None and plant.compiled and isinstance(plant.env, AbstractPhysics),
            sample_seconds=sample_seconds,
            gap=gap,
            steps=steps,
            follows=follows,
            hours=hours,
        )

    def hours_of(self, method: str) -> float:
        """Hours that so many steps take with a method of PER_SECOND."""
        return self.steps * (1 / PER_SECOND[method] + (self.sample_seconds or 0)) / 3600


def _median(shares: ArrayLike) -> float | None:
    """Of those that are numbers."""
    known = np.asarray(shares, float)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else None


def _needed(markov: Markov) -> int:
    """The history to ask for beside what is described already."""
    return markov.history if markov.history > markov.described else 1


def tried(plant: AbstractPlant, rows: int, seed: int) -> tuple[Dataset, float]:
    """Rows under random actions, each held for a while, and the seconds that a step of the environment takes."""
    recorded(plant, rows // 10, seed)  # what is compiled is compiled
    began = time.perf_counter()
    data = recorded(plant, rows, seed)
    return data, (time.perf_counter() - began) / rows


@final
class Guideline(NamedTuple):
    """Where it holds, a method fits."""

    holds: Callable[[Facts], bool]
    method: str
    words: tuple[str, ...]
    """Its options on the command line."""
    why: str
    """A sentence with figures of `Facts`."""
    source: str
    """The measurement that speaks for it, a file of benchmarks/results."""


GUIDELINES = (
    Guideline(
        lambda facts: facts.log and facts.joined,
        "explicit_fqi",
        (),
        "Limits join the {acts}, or they are whole numbers: the argmax that is solved knows them, and loses "
        "a tenth of what is lost when actions are cut to them afterwards.",
        "constrained",
    ),
    Guideline(
        lambda facts: facts.log and facts.blind,
        "explicit_fqi",
        ("--set", "support=2"),
        "At like states the log tried {covered:.0%} of the actions' box, and what was seen tells {foreseen:.0%} of "
        "what was done: the argmax has to stay near what was done.",
        "docs/near_the_log.md",
    ),
    Guideline(
        lambda facts: facts.log and (facts.actions >= MANY_ACTIONS or (facts.gap or 0) > WIDE_GAP),
        "amortized_fqi",
        (),
        "With {acts}, or with a policy {gap:.0%} of q's range below its critic's maximum (wide from "
        f"{WIDE_GAP:.0%}, or from {MANY_ACTIONS} actions), solved argmaxes are worth imitating.",
        "offline_halfcheetah",
    ),
    Guideline(
        lambda facts: facts.log,
        "nfqca",
        (),
        "With {acts} a policy that climbs q comes within {gap:.0%} of its range to the maximum, and is "
        "fitted in a tenth of the time that solving takes.",
        "offline_pendulum",
    ),
    Guideline(
        lambda facts: bool(facts.follows) and facts.ended >= MOST_ENDED,
        "td3",
        ("--set", "hidden=64,64"),
        "A set-point is followed, and {ended:.1%} of samples under random actions end an episode for good: such a "
        "plant needs more foresight than the preset `plant` has.",
        "docs/set_points.md",
    ),
    Guideline(
        lambda facts: bool(facts.follows),
        "auto",
        ("--preset", "plant"),
        "A set-point is followed, and {ended:.1%} of samples under random actions end an episode: the preset for "
        "plants was ahead of SVG and of other TD3s on most such plants, and of the package's tuned PID.",
        "plants.json",
    ),
    Guideline(
        lambda facts: facts.physics,
        "svg",
        tuple(
            word
            for setting in (
                *("dynamics=env", "horizon=inf", "episode_length=30", "policy=deterministic", "temperature=0"),
                *("hidden=64,64", "batch_size=32", "policy_learning_rate=0.001", "random_steps=500"),
            )
            for word in ("--set", setting)
        ),
        "Its step can be differentiated: the gradient through 30 steps took a tenth to a fourth of SAC's samples.",
        "mjx_cart_pole.json",
    ),
    Guideline(
        lambda facts: facts.state <= SMALL_STATE and facts.actions <= SMALL_ACTION,
        "sac",
        (),
        "With {state} numbers observed and {actions} action SAC is as good as any, and done in minutes.",
        "pendulum",
    ),
    Guideline(
        lambda facts: facts.hours_of("auto") > facts.hours,
        "sac",
        (),
        "{steps:,} steps of `auto` take some {auto_hours:.1f} hours here, more than the {hours:g} that there are; SAC "
        "takes {sac_hours:.1f}.",
        "end_to_end.json",
    ),
    Guideline(
        lambda facts: True,
        "auto",
        (),
        "No set-point, no equations, {acts}, and {auto_hours:.1f} hours of learning: normalized critics "
        "make the most of {steps:,} samples.",
        "normalized",
    ),
)
"""The first that holds decides."""


@final
@dataclass(frozen=True)
class Advice:
    """A method, why, and what else to do."""

    method: str
    words: tuple[str, ...]
    why: str
    source: str
    beside: tuple[str, ...]
    """Further sentences."""

    @staticmethod
    def of(facts: Facts) -> Advice:
        """By the first of GUIDELINES that holds."""
        rule = next(rule for rule in GUIDELINES if rule.holds(facts))
        figures = {name: np.nan if value is None else value for name, value in vars(facts).items()}
        figures["acts"] = plural(facts.actions, "action", "actions")
        figures |= {f"{method}_hours": facts.hours_of(method) for method in PER_SECOND}
        why = rule.why.format(**figures).replace("nan%", "an unknown share")
        words = list(rule.words)
        words += [word for one in facts.follows for word in ("--error", one)]
        if facts.log and (facts.history or 1) > 1:
            words += ["--history", str(facts.history)]
        return Advice(rule.method, tuple(words), why, rule.source, tuple(_beside(facts)))


def _beside(facts: Facts) -> list[str]:
    """What the figures say besides."""
    told = []
    if (facts.linear or 0) >= LINEAR:
        told.append(
            f"A linear model explains {facts.linear:.1%} of how the state changes (the median; from {LINEAR:.0%}): an "
            "LQR may be all that is needed. `fittedq compare RUN lqr pid` puts it beside."
        )
    if (facts.history or 1) > 1:
        with_it = "" if facts.log else f" Try it with --history {facts.history} too."
        told.append(
            f"The state may not be all that matters: {facts.history} observations tell more of the next one.{with_it}"
        )
    if facts.blind:
        told.append("Log again with the actions moved on purpose; `fittedq data check` says how.")
    if (facts.noise or 0) > 1:
        told.append(
            f"One step's noise is {facts.noise:.1f} times what states differ by: take several seeds, and judge by many "
            "episodes."
        )
    return told
