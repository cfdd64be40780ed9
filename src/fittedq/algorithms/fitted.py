"""What the fitted methods share: how q is represented, how it is fitted, how the argmax is solved."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, Gaussian
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import (
    OPTIMIZERS,
    SHARED,
    NetworkAlgorithm,
    Rules,
    learning_rate,
    refuse_unread,
    shared,
)
from fittedq.approx.linear import AbstractFeatures, LinearCritic, Polynomial, RadialBasis
from fittedq.approx.networks import ClippedGaussianPolicy, DeterministicPolicy
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.code import told
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer
from fittedq.maximize.choose import RULES, auto
from fittedq.maximize.exact.grid import Grid
from fittedq.maximize.exact.integer import Exhaustive, IntegerArgmax
from fittedq.maximize.exact.milp import MilpArgmax
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.local.lbfgs import ProjectedLBFGS
from fittedq.maximize.proofs.proven import CertifiedArgmax
from fittedq.settings import code_setting, setting, settle
from fittedq.template.fits import AbstractFit, Budget, GrowTrees, LeastSquares
from fittedq.template.fqi import Update
from fittedq.template.greedy import Solved
from fittedq.template.losses import Regress
from fittedq.template.near import Clone
from fittedq.template.rates import Linear, Optimizer, Rate, words
from fittedq.template.support import Support
from fittedq.template.targets import AbstractTarget, Clipped
from fittedq.types import AbstractCritic, needed

FALLING = Linear(1e-3, 1e-4)
"""The rate of fits: what the last ones still change is noise."""

MOST_STARTS = 16
"""Random starts per state for the settings of whole-numbered actions."""

MAXIMIZERS: dict[str, AbstractMaximizer] = {
    "ascent": ProjectedAscent(),
    "lbfgs": ProjectedLBFGS(),
    "cem": CrossEntropy(),
    "grid": Grid(),
    "milp": MilpArgmax(),
    "exhaustive": Exhaustive(),
    "integer_quadratic": IntegerArgmax(),
}

MAXIMIZER_WORDS = {word: type(maximizer) for word, maximizer in MAXIMIZERS.items()} | {"certified": CertifiedArgmax}


class Usual(NamedTuple):
    """What a fit takes where nobody says: passes over the data, and gradient steps at least, for a small log has few in
    a pass."""

    passes: int
    least: int

    def about(self, whose: str) -> str:
        """What the setting says of itself."""
        return f"passes over the data in each fit of {whose}; none: {self.passes}, and {self.least} steps at least"


CRITIC, POLICY = Usual(5, 100), Usual(2, 40)


def _rprop_takes_all_rows(method: FittedAlgorithm) -> None:
    if method.optimizer != "rprop" or method.minibatch is None:
        return
    if method.minibatch != type(method).minibatch:
        raise UserError(
            f"setting minibatch: found {method.minibatch} with optimizer = 'rprop', which needs all rows in each "
            "step; leave it out, or choose adam."
        )
    settle(method, "minibatch", None)


def _rprop_takes_no_schedule(method: FittedAlgorithm) -> None:
    for name in ("critic_learning_rate", "policy_learning_rate"):
        if method.optimizer != "rprop":
            continue
        if getattr(method, name) == FALLING:
            settle(method, name, FALLING.first)
        if callable(getattr(method, name)):
            raise UserError(
                f"setting {name}: found {words(getattr(method, name))} with optimizer = 'rprop', which finds the "
                "size of its steps itself from the first on; give a number, or choose adam."
            )


def _patience_needs_held_out(method: FittedAlgorithm) -> None:
    if method.patience is not None and not method.held_out:
        raise UserError(
            f"setting patience: found {method.patience} with held_out = 0, so there is no held-out loss to wait for; "
            "set held_out to a share such as 0.1, or leave patience out."
        )


FIT_RULES: Rules = (_rprop_takes_all_rows, _rprop_takes_no_schedule, _patience_needs_held_out)


@dataclass(frozen=True, kw_only=True)
class FittedAlgorithm(NetworkAlgorithm, abc.ABC):
    """Methods that fit all of a dataset before they label it anew; each step of a run is one iteration."""

    fitted = True
    buffer: ClassVar[str] = "fixed dataset, or growing"
    ignores: ClassVar[frozenset[str]] = frozenset({"tau"})
    rules: ClassVar[Rules] = (*NetworkAlgorithm.rules, *FIT_RULES)

    gamma: float = shared("gamma", 0.98)
    hidden: tuple[int, ...] = shared("hidden", (128, 128))
    n_critics: int = setting(2, "size of the critic ensemble (networks); targets take its minimum", low=1)
    critic_learning_rate: Rate = learning_rate(FALLING, "the critics")
    policy_learning_rate: Rate = learning_rate(FALLING, "the policy")
    optimizer: str | Optimizer = setting("adam", **dict(SHARED["optimizer"], choices=OPTIMIZERS))
    epochs: int | None = setting(None, CRITIC.about("the critics"), low=1)
    minibatch: int | None = setting(256, "rows in a gradient step; none: all of them (as Rprop needs)", low=1)
    held_out: float = setting(
        0.0, "share of rows that each fit keeps aside, to stop early by their loss", low=0.0, below=1.0
    )
    patience: int | None = setting(None, "end a fit after so many passes without a lower held-out loss", low=1)
    reset: bool = setting(False, "start each fit from the first networks instead of the last")
    clip_targets: bool = setting(True, "keep targets within the values that the rewards seen allow")
    noise_sigma: float = shared("noise_sigma", 0.1)

    def budget(self, epochs: int | None, usual: Usual) -> Budget:
        """What one fit of a network may take; without `epochs` it is the usual."""
        passes, least = usual if epochs is None else (epochs, 1)
        stops = {"held_out": self.held_out, "patience": self.patience}
        return Budget(passes, self.minibatch, **stops, reset=self.reset, least=least)

    def regression(self, target: AbstractTarget) -> Regress:
        """The critics' loss."""
        return Regress(Clipped(target) if self.clip_targets else target)

    def exploration(self) -> AbstractExploration:
        return Gaussian(self.noise_sigma)

    def deterministic_policy(
        self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray
    ) -> DeterministicPolicy:
        """The network that amortizes the argmax."""
        return DeterministicPolicy(obs_size, action_set, self.hidden, key, activation=self.activation)


class Approximator(NamedTuple):
    """How q is represented: the settings that say so, its first critic, and how it is fitted."""

    reads: frozenset[str]
    start: Callable[[SolvingAlgorithm, int, AbstractActionSet, PRNGKeyArray], AbstractCritic]
    fit: Callable[[SolvingAlgorithm], AbstractFit]


def _own(method: SolvingAlgorithm, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> AbstractCritic:
    critic = method.approximator(obs_size, action_set, key)  # pyright: ignore[reportCallIssue]
    if not isinstance(critic, AbstractCritic):
        raise UserError(f"setting approximator: it made a {type(critic).__name__}, expected an AbstractCritic.")
    return critic


def _trees(method: SolvingAlgorithm, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> TreeCritic:
    forest = Forest(kind=str(method.approximator), n_trees=method.n_trees, min_samples_leaf=method.min_samples_leaf)
    return TreeCritic.start(action_set, forest)


def _radial(method: SolvingAlgorithm, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> LinearCritic:
    size = obs_size + action_set.size
    start = RadialBasis(np.zeros((method.n_centers, size), np.float32), np.ones(size, np.float32))
    return LinearCritic.start(start, obs_size, action_set)


def _descending(method: SolvingAlgorithm) -> AbstractFit:
    return method.descend(method.critic_learning_rate, method.budget(method.epochs, CRITIC))


BUDGET = frozenset({"optimizer", "minibatch", "held_out", "patience", "reset"})
DESCENDING = BUDGET | {"critic_learning_rate", "epochs"}
TREES = Approximator(frozenset({"n_trees", "min_samples_leaf"}), _trees, lambda method: GrowTrees())
APPROXIMATORS = {
    "network": Approximator(
        DESCENDING | {"hidden", "activation", "n_critics", "layer_norm", "dropout"},
        lambda method, *sizes: method.critic(*sizes),
        _descending,
    ),
    "extra_trees": TREES,
    "random_forest": TREES,
    "polynomial": Approximator(
        frozenset({"degree", "ridge"}),
        lambda method, *sizes: LinearCritic.start(Polynomial(method.degree), *sizes[:2]),
        lambda method: LeastSquares(method.ridge),
    ),
    "radial": Approximator(
        frozenset({"n_centers", "ridge"}), _radial, lambda method: LeastSquares(method.ridge, method.n_centers)
    ),
    "features": Approximator(
        frozenset({"ridge"}),
        lambda method, *sizes: LinearCritic.start(needed(method.features), *sizes[:2]),
        lambda method: LeastSquares(method.ridge),
    ),
}
OWN = Approximator(DESCENDING, _own, _descending)
"""A function of the user's own."""


def represented(method: SolvingAlgorithm) -> Approximator:
    """How its settings represent q."""
    return APPROXIMATORS[method.approximator] if isinstance(method.approximator, str) else OWN


def _features_are_given(method: SolvingAlgorithm) -> None:
    if method.features is not None:
        settle(method, "approximator", "features")
    elif method.approximator == "features":
        raise UserError(
            "setting approximator: found features without any; give them (features=…). No file holds code: where a "
            "run is resumed or an agent is loaded they are given again (code={'features': …})."
        )


def _approximator_reads(method: SolvingAlgorithm) -> None:
    """What belongs to another approximator is refused."""
    read = represented(method).reads | method.policy_reads
    if method.support is not None:
        read |= DESCENDING | {"hidden", "activation"}  # what imitates the log is a network
    every = frozenset[str]().union(*(one.reads for one in APPROXIMATORS.values()))
    refuse_unread(method, every - read, f"approximator = {told(method.approximator)}")


@dataclass(frozen=True, kw_only=True)
class SolvingAlgorithm(FittedAlgorithm, abc.ABC):
    """Fitted methods that solve max_a q(s', a), with any approximator of q."""

    rules: ClassVar[Rules] = (*NetworkAlgorithm.rules, _features_are_given, _approximator_reads, *FIT_RULES)
    policy_reads: ClassVar[frozenset[str]] = frozenset()
    """The settings that its policy reads, however q is represented."""

    approximator: str | Callable[[int, AbstractActionSet, PRNGKeyArray], AbstractCritic] = setting(
        "network",
        "how q is represented",
        choices=APPROXIMATORS,
        takes=Callable,
        arguments=("obs_size", "action_set", "key"),
    )
    """In Python also (observation's size, action set, key) → a critic of the user's own, fitted by the optimizer."""
    n_trees: int = setting(50, "trees in an ensemble", low=1)
    min_samples_leaf: int = setting(1, "rows in a leaf, at least; raise it where the data are noisy", low=1)
    degree: int = setting(2, "total degree of polynomial features", low=1)
    n_centers: int = setting(300, "centers of radial features, drawn from the data", low=1)
    ridge: float = setting(1e-6, "ridge of the least squares (linear approximators)", low=0.0)
    maximizer: str | AbstractMaximizer = setting(
        "auto",
        "how the argmax is solved, also with numbers, as milp:0.01",
        choices=("auto", *MAXIMIZERS, "certified", "exact"),
        takes=AbstractMaximizer,
        kinds=tuple(MAXIMIZER_WORDS.values()),
        words=MAXIMIZER_WORDS,
    )
    random_starts: int = setting(
        2,
        "random starts per state of a fit, beside the last answer and the policy's; without a policy, acting takes 16 "
        "or more",
        low=0,
    )
    search_tolerance: float = setting(
        1e-3,
        "search anew at all of many states only where it gains more than this, on average and in deviations of max q, "
        "over going on from the last answers; 0: always",
        low=0.0,
    )
    support: float | None = setting(
        None, "search within so many deviations of what the log did at s; none: all of A(s)", above=0.0
    )
    features: AbstractFeatures | None = code_setting("features of (s, a) in which q is linear", to_act=True)
    """They see observations as fitted: normalized, unless `normalize_obs` is false."""

    def supported(self) -> Support | None:
        """What the log supports, where the search keeps to it."""
        return None if self.support is None else Support(self.support)

    def behaviour(
        self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray
    ) -> ClippedGaussianPolicy | None:
        """What imitates the log, where the search keeps to what it supports."""
        if self.support is None:
            return None
        made = {"activation": self.activation, "by_state": True}
        return ClippedGaussianPolicy(obs_size, action_set, self.hidden, jax.random.fold_in(key, 3), **made)

    def cloning(self) -> tuple[Update, ...]:
        """The update that fits it."""
        if self.support is None:
            return ()
        return (
            Update("behaviour", Clone(), self.descend(self.critic_learning_rate, self.budget(self.epochs, CRITIC))),
        )

    def approximation(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> AbstractCritic:
        """q as these settings represent it."""
        critic = represented(self).start(self, obs_size, action_set, key)
        self.solved(action_set).chosen(critic)  # refused here, before anything is learned
        return critic

    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, tuple[int, ...]]]:
        if self.approximator == "network":
            return super().layers(obs_size, action_size)
        size = obs_size + action_size
        features = {"polynomial": math.comb(size + self.degree, size), "radial": self.n_centers}
        count = features.get(str(self.approximator), 1)
        # Least squares hold a matrix of features by features.
        return [(1, (size, count, count)), (self.n_trees, (size, 1))]

    def critic_fit(self) -> AbstractFit:
        """How q is fitted, as it is represented."""
        return represented(self).fit(self)

    def solved(self, action_set: AbstractActionSet) -> Solved:
        """The greedy step these settings ask for; `auto` takes an exact maximizer where the critic has a quick one."""
        # Small steps do not change a whole number: each setting of them needs a start of its own.
        settings = len(action_set.whole.settings) or MOST_STARTS if action_set.integer else 1
        starts = max(self.random_starts, min(settings, MOST_STARTS))
        word = self.maximizer if isinstance(self.maximizer, str) else ""
        maximizer = self.maximizer if isinstance(self.maximizer, AbstractMaximizer) else MAXIMIZERS.get(word)
        return Solved(maximizer, starts, RULES.get(word, auto), self.supported(), self.search_tolerance)
