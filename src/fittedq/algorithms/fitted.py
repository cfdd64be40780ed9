"""What the fitted methods share: how q is represented, how it is fitted, how the argmax is solved."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, Gaussian
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import OPTIMIZERS, SHARED, NetworkAlgorithm, Rules, learning_rate, shared
from fittedq.approx.linear import AbstractFeatures, LinearCritic, Polynomial, RadialBasis
from fittedq.approx.networks import DeterministicPolicy
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer
from fittedq.maximize.choose import RULES, auto
from fittedq.maximize.exact.grid import Grid
from fittedq.maximize.exact.integer import Exhaustive, IntegerArgmax
from fittedq.maximize.exact.milp import MilpArgmax
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.local.lbfgs import ProjectedLBFGS
from fittedq.settings import code_setting, setting, settle
from fittedq.template.fits import AbstractFit, Budget, GrowTrees, LeastSquares
from fittedq.template.greedy import Solved
from fittedq.template.losses import Regress
from fittedq.template.rates import Optimizer, Rate, words
from fittedq.template.targets import AbstractTarget, Clipped
from fittedq.types import AbstractCritic

APPROXIMATORS = ("network", "extra_trees", "random_forest", "polynomial", "radial", "features")
TREES = ("extra_trees", "random_forest")
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
        if method.optimizer == "rprop" and callable(getattr(method, name)):
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


@dataclass(frozen=True, kw_only=True)
class FittedAlgorithm(NetworkAlgorithm, abc.ABC):
    """Methods that fit all of a dataset before they label it anew; each step of a run is one iteration."""

    fitted = True
    buffer: ClassVar[str] = "fixed dataset, or growing"
    rules: ClassVar[Rules] = (
        *NetworkAlgorithm.rules,
        _rprop_takes_all_rows,
        _rprop_takes_no_schedule,
        _patience_needs_held_out,
    )

    gamma: float = shared("gamma", 0.98)
    hidden: tuple[int, ...] = shared("hidden", (128, 128))
    n_critics: int = setting(2, "size of the critic ensemble (networks); targets take its minimum", low=1)
    critic_learning_rate: Rate = learning_rate(1e-3, "the critics")
    policy_learning_rate: Rate = learning_rate(1e-3, "the policy")
    optimizer: str | Optimizer = setting("adam", **dict(SHARED["optimizer"], choices=OPTIMIZERS))
    epochs: int = setting(5, "passes over the data in each fit of the critics", low=1)
    minibatch: int | None = setting(256, "rows in a gradient step; none: all of them (as Rprop needs)", low=1)
    held_out: float = setting(
        0.0, "share of rows that each fit keeps aside, to stop early by their loss", low=0.0, below=1.0
    )
    patience: int | None = setting(None, "end a fit after so many passes without a lower held-out loss", low=1)
    reset: bool = setting(False, "start each fit from the first networks instead of the last")
    clip_targets: bool = setting(True, "keep targets within the values that the rewards seen allow")
    noise_sigma: float = shared("noise_sigma", 0.1)

    def budget(self, epochs: int) -> Budget:
        """What one fit of a network may take."""
        return Budget(epochs, self.minibatch, held_out=self.held_out, patience=self.patience, reset=self.reset)

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


def _features_are_given(method: SolvingAlgorithm) -> None:
    if method.features is not None:
        settle(method, "approximator", "features")
    elif method.approximator == "features":
        raise UserError(
            "setting approximator: found features without any; give them (features=…). No file holds code: where a "
            "run is resumed or an agent is loaded they are given again (code={'features': …})."
        )


@dataclass(frozen=True, kw_only=True)
class SolvingAlgorithm(FittedAlgorithm, abc.ABC):
    """Fitted methods that solve max_a q(s', a), with any approximator of q."""

    rules: ClassVar[Rules] = (*FittedAlgorithm.rules, _features_are_given)

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
        "how the argmax is solved",
        choices=("auto", *MAXIMIZERS, "certified", "exact"),
        takes=AbstractMaximizer,
        kinds=tuple(map(type, MAXIMIZERS.values())),
    )
    random_starts: int = setting(2, "random starts per state, beside the last answer and the policy's", low=0)
    features: AbstractFeatures | None = code_setting("features of (s, a) in which q is linear", to_act=True)
    """They see observations as fitted: normalized, unless `normalize_obs` is false."""

    def approximation(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> AbstractCritic:
        """q as these settings represent it."""
        critic = self._approximator(obs_size, action_set, key)
        self.solved(action_set).chosen(critic)  # refused here, before anything is learned
        return critic

    def _approximator(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> AbstractCritic:
        if not isinstance(self.approximator, str):
            critic = self.approximator(obs_size, action_set, key)
            if not isinstance(critic, AbstractCritic):
                raise UserError(f"setting approximator: it made a {type(critic).__name__}, expected an AbstractCritic.")
            return critic
        if self.approximator in TREES:
            forest = Forest(kind=self.approximator, n_trees=self.n_trees, min_samples_leaf=self.min_samples_leaf)
            return TreeCritic.start(action_set, forest)
        if self.features is not None:
            return LinearCritic.start(self.features, obs_size, action_set)
        if self.approximator == "polynomial":
            return LinearCritic.start(Polynomial(self.degree), obs_size, action_set)
        if self.approximator == "radial":
            size = obs_size + action_set.size
            start = RadialBasis(np.zeros((self.n_centers, size), np.float32), np.ones(size, np.float32))
            return LinearCritic.start(start, obs_size, action_set)
        return self.critic(obs_size, action_set, key)

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
        if self.approximator == "network" or not isinstance(self.approximator, str):
            return self.descend(self.critic_learning_rate, self.budget(self.epochs))
        if self.approximator in TREES:
            return GrowTrees()
        return LeastSquares(self.ridge, self.n_centers if self.approximator == "radial" else None)

    def solved(self, action_set: AbstractActionSet) -> Solved:
        """The greedy step these settings ask for; `auto` takes an exact maximizer where the critic has a quick one."""
        # Small steps do not change a whole number: each setting of them needs a start of its own.
        settings = len(action_set.whole.settings) or MOST_STARTS if action_set.integer else 1
        starts = max(self.random_starts, min(settings, MOST_STARTS))
        if isinstance(self.maximizer, AbstractMaximizer):
            return Solved(self.maximizer, starts)
        return Solved(MAXIMIZERS.get(self.maximizer), starts, RULES.get(self.maximizer, auto))
