"""A model of the plant that is learned from a log, and what a controller earns in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from fittedq.estimates.chain import Chain
from fittedq.estimates.deciding import AbstractDeciding, Begun
from fittedq.estimates.features import Features, Regression

CENTRES = 150
LENGTHS = (1.0, 2.5)
MARGIN = 0.5
"""How far, in ranges of the log, the observations of a rollout may leave what was logged; rewards may not."""


class Member(NamedTuple):
    """A member of the ensemble: the weights that one weighing of the blocks gives."""

    change: Float[np.ndarray, "f y"]
    reward: Float[np.ndarray, "g 1"]
    ends: Float[np.ndarray, "h 1"] | None
    noise: Float[np.ndarray, "k y"]
    """What was left of y' − y in the rows that counted."""


class Rolled(NamedTuple):
    """Rollouts of one length."""

    earned: Float[np.ndarray, "t+1 b"]
    """Σ_{k<h} γᵏ r_k, for each h up to the horizon."""
    x: Float[np.ndarray, "t b x"]
    u: Float[np.ndarray, "t b m"]
    alive: Float[np.ndarray, "t b"]


@final
@dataclass(frozen=True)
class LearnedModel:
    """y' = y + W φ(x, u) + ξ, r = v ψ(x, u, y'), terminated where h χ(y') > ½, each by ridge regression.

    ξ is drawn from what the fit left over. The features were chosen on held-out blocks. A reward is smooth in all of
    (y', u, x), or a sum of bumps over coordinates of y or y' and over their distances from set-points, as rewards of
    controllers are. A model of few numbers leaves little to the seed, and its member for another weighing of the
    blocks is another solve. Source: Chua et al. 2018 (ensembles over bootstrapped data, rolled out).
    """

    log: Chain
    change: Regression
    reward: Regression
    ends: Regression | None
    designs: tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n g"], Float[np.ndarray, "n h"] | None]

    @staticmethod
    def of(log: Chain) -> LearnedModel:
        """With the features that this log bears."""
        seen, fold, pairs = _inputs(log, log.x, log.u), log.fold, log.setpoint_pairs
        size = log.state.obs_size
        y = log.after[:, :size]
        smooth = [Features.of(seen, pairs=pairs), *(Features.of(seen, centres=CENTRES, length=c) for c in LENGTHS)]
        change = Regression.chosen(smooth, seen, (y - log.x[:, :size])[:, log.moving], fold)
        whole = np.concatenate([y, seen], axis=1)
        earlier = [(size + first, size + second) for first, second in pairs]
        bumps = [
            Features.of(whole, columns=np.arange(start, start + size).tolist(), pairs=differences, knots=knots)
            for knots in (25, 80)
            for start, differences in ((0, pairs), (size, earlier))
        ]
        rich = [Features.of(whole, pairs=pairs, centres=CENTRES, length=c) for c in LENGTHS]
        candidates = [Features.of(whole, pairs=[*pairs, *earlier]), *bumps, *rich]
        reward = Regression.chosen(candidates, whole, log.reward[:, None], fold)
        ends = None
        if not log.goes_on.all():
            ended = [Features.of(y, knots=knots) for knots in (25, 50)]
            ends = Regression.chosen(ended, y, 1 - log.goes_on[:, None], fold)
        designs = (change.features(seen), reward.features(whole), None if ends is None else ends.features(y))
        return LearnedModel(log, change, reward, ends, designs)

    @property
    def reward_error(self) -> float:
        """√ of the mean squared error of r in rows that were held out."""
        return float(np.sqrt(self.reward.error[0] * self.log.reward.var()))

    def fit(self, count: Float[np.ndarray, "n"]) -> Member:
        """The member for which row i counts count_i times."""
        log, size = self.log, self.log.state.obs_size
        moved = (log.after[:, :size] - log.x[:, :size])[:, log.moving]
        change = self.change.fitted(self.designs[0], moved, count)
        reward = self.reward.fitted(self.designs[1], log.reward[:, None], count)
        ends = None
        if self.ends is not None and self.designs[2] is not None:
            ends = self.ends.fitted(self.designs[2], 1 - log.goes_on[:, None], count)
        return Member(change, reward, ends, (moved - self.designs[0] @ change)[count > 0])

    def roll(
        self,
        members: Sequence[Member],
        deciding: AbstractDeciding,
        begun: Begun,
        gamma: float,
        horizon: int,
        rng: np.random.Generator,
    ) -> Rolled:
        """`begun` holds the rollouts of one member after those of the other, equally many."""
        log, size = self.log, self.log.state.obs_size
        x, u, memory = begun
        low, high = log.after[:, :size].min(axis=0), log.after[:, :size].max(axis=0)
        far = MARGIN * (high - low)
        least, most = float(log.reward.min()), float(log.reward.max())
        change, rewards = [member.change for member in members], [member.reward for member in members]
        ends = [member.ends for member in members if member.ends is not None]
        alive, earned, seen = np.ones(len(x)), [np.zeros(len(x))], []
        for step in range(horizon):
            u = np.asarray(log.dataset.action_set.project(u.astype(np.float32), x[:, :size].astype(np.float32)))
            seen.append((x, u, alive))
            inputs = _inputs(log, x, u)
            y = x[:, :size].copy()
            moved = _each(self.change.features(inputs.astype(np.float32)), change)
            y[:, log.moving] += moved + _noise(members, len(x), rng)
            y = np.clip(y, low - far, high + far)
            whole = np.concatenate([y, inputs], axis=1).astype(np.float32)
            reward = _each(self.reward.features(whole), rewards)[:, 0]
            earned.append(earned[-1] + gamma**step * alive * np.clip(reward, least, most))
            if self.ends is not None:
                alive = alive * (_each(self.ends.features(y.astype(np.float32)), ends)[:, 0] < 0.5)
            x = np.asarray(log.state.after(x, u.astype(np.float64), y), np.float64)
            if step + 1 < horizon:
                u, memory = deciding.step(memory, x)
        return Rolled(np.array(earned), *(np.array(part) for part in zip(*seen, strict=True)))


def _inputs(log: Chain, x: Float[np.ndarray, "b x"], u: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b v"]:
    return np.concatenate([x[:, log.plant_columns], u], axis=1)


def _each(design: Float[np.ndarray, "b f"], weights: Sequence[Float[np.ndarray, "f t"]]) -> Float[np.ndarray, "b t"]:
    """The members' own predictions of their own rollouts."""
    parts = design.reshape(len(weights), -1, design.shape[1])
    each = [part @ weight.astype(design.dtype) for part, weight in zip(parts, weights, strict=True)]
    return np.concatenate(each).astype(np.float64)


def _noise(members: Sequence[Member], rows: int, rng: np.random.Generator) -> Float[np.ndarray, "b y"]:
    each = rows // len(members)
    return np.concatenate([member.noise[rng.integers(len(member.noise), size=each)] for member in members])
