"""The least error with which this log can tell what any policy is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float

from fittedq.data.checks.base import ADVICE, GOOD, AbstractCheck, Axes, Unsaid
from fittedq.data.checks.regression import cross_fitted, enough, standardized
from fittedq.data.checks.sample import Sample

MOST_OF_SPREAD = 0.5


@final
@dataclass(frozen=True)
class Floor(AbstractCheck):
    """error = σ / ((1 − γ) √N), σ² = E[Var(r + γ V(s') | s, a)]: how surely N rows tell a policy's value, at best.

    It is the efficiency bound of off-policy evaluation, (1/N) E[w² Var(r + γ V(s') | s, a)] / (1 − γ)² (Kallus and
    Uehara 2020, for Markov rewards), at its least: w, the policy's visits over the log's, has mean 1, and a policy that
    visits what the log did has w = 1. Others pay more, and whoever knows the plant's equations pays less. V is the
    value of what the log did, by least squares on temporal differences (LSTD; Bradtke and Barto 1996). σ² is the
    held-out error of predicting r + γ V(s') from (s, a): what the state hides counts as noise, as it does for a critic.

    Beside it, the log's own value r̄ / (1 − γ) and its standard error by blocks.

    Why a half: 2 errors are then as large as the deviation of V over the states of the log, so that a policy worth one
    such deviation cannot be told from noise.
    """

    title: ClassVar[str] = "floor"
    gamma: float
    noise: float
    """σ, in the reward's unit."""
    error: float
    per_row: float
    """(1 − γ) · error: the same as a mean reward per row."""
    spread: float
    """The deviation of V over the states of the log."""
    own_value: float
    own_error: float
    rows_needed: int
    """N at which the error is MOST_OF_SPREAD of the spread."""
    value: Float[np.ndarray, "n"]

    @staticmethod
    def of(sample: Sample, gamma: float) -> Floor | Unsaid:
        """The check, with a discount γ < 1."""
        seen, action = sample.obs[:, sample.moving], sample.action
        inputs = np.hstack([seen, action])
        if not enough(len(sample), inputs.shape[1]) or len(np.unique(sample.fold)) < 2:
            return Unsaid(Floor.title, f"{len(sample)} rows are too few to tell noise", "A longer log would tell.")
        value, following = _lstd(sample, gamma)
        target = (sample.reward + gamma * following)[:, None]
        noise = float(np.sqrt(((target - cross_fitted(inputs, target, sample.fold)) ** 2).mean()))
        error = noise / ((1 - gamma) * np.sqrt(sample.total))
        spread = float(value.std())
        needed = (noise / ((1 - gamma) * MOST_OF_SPREAD * spread)) ** 2 if spread > 0 else np.inf
        means = np.bincount(sample.group, sample.reward) / np.maximum(np.bincount(sample.group), 1)
        return Floor(
            gamma=gamma,
            noise=noise,
            error=error,
            per_row=(1 - gamma) * error,
            spread=spread,
            own_value=float(sample.reward.mean()) / (1 - gamma),
            own_error=float(means.std(ddof=1)) / np.sqrt(len(means)) / (1 - gamma),
            rows_needed=int(min(np.ceil(needed), 2**53)),
            value=value,
        )

    @property
    def verdict(self) -> str:
        return ADVICE if self.error > MOST_OF_SPREAD * self.spread else GOOD

    def finding(self) -> str:
        return (
            f"one step's noise of {self.noise:.3g} leaves a policy's value uncertain by {self.error:.3g} or more (γ = "
            f"{self.gamma:g}; {self.per_row:.2g} per row), beside {self.spread:.3g} by which states differ; good up to "
            f"{MOST_OF_SPREAD} of that. The log's own value is {self.own_value:.4g} ± {self.own_error:.3g}"
        )

    def remedy(self) -> str:
        return (
            f"Policies whose values differ by less than {2 * self.error:.3g} cannot be told apart by this log. It "
            f"takes some {self.rows_needed:,} rows like these, or a state that hides less."
        )

    def draw(self, axes: Axes) -> None:
        axes.hist(self.value, bins=50, color="C0")
        centre = float(self.value.mean())
        axes.axvspan(centre - 2 * self.error, centre + 2 * self.error, color="C1", alpha=0.3, label="± 2 errors")
        axes.legend(frameon=False, fontsize=7)
        axes.set(xlabel="V(s) of what the log did", ylabel="rows", title=f"floor {self.error:.3g}")


def _lstd(sample: Sample, gamma: float) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """V at s and (1 − terminated) V at s', V linear in 1, s and their products (their squares where s is long)."""
    both = standardized(np.concatenate([sample.obs, sample.next_obs])[:, sample.moving])
    size = both.shape[1]
    pairs = (
        np.triu_indices(size) if enough(len(sample), size * (size + 3) // 2) and size <= 20 else (np.arange(size),) * 2
    )
    features = np.hstack([np.ones((len(both), 1)), both, both[:, pairs[0]] * both[:, pairs[1]]])
    here, after = features[: len(sample)], features[len(sample) :] * ~sample.terminated[:, None]
    system = here.T @ (here - gamma * after) + 1e-8 * len(sample) * np.eye(features.shape[1])
    weights = np.linalg.solve(system, here.T @ sample.reward)
    return here @ weights, after @ weights
