"""Whether each action moved often, and slowly enough for the plant to follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float

from fittedq.data.checks.base import ADVICE, GOOD, LOOK_HERE, AbstractCheck, Axes, Unsaid
from fittedq.data.checks.regression import enough
from fittedq.data.checks.sample import Sample

FEWEST_MOVES, NO_MOVES = 20, 5
MOVE = 0.05
"""Of the range found: what counts as a move."""
LEAST_PASSED = 0.05
WELL_KNOWN, UNSEEN = 20.0, 4.0
SHARE_LEFT = 0.05
STANDING = 0.1
FOLLOWED = 5_000
"""Rows for which a response is followed."""


@final
@dataclass(frozen=True)
class Excitation(AbstractCheck):
    """The moves of each action, what they show, and the share of their variance that a plant this slow lets pass.

    A move is a way of MOVE of the action's range, counted from the last move, so that ramps and noise count as steps.
    passed = Σ_ω |U|² |H|² / Σ_ω |U|² with H = (1 − c) / (1 − c e^{−iω}), c = .05^{1/settling}: the first-order lag
    that settles to 5 % in `settling` rows. White noise passes (1 − c) / (1 + c). The settling time is the user's, or
    that of the step response of a linear model of the log (`StepModel`). `seen` is the largest effect of the action
    on the next row in this model, in its standard errors.

    Why 20 moves: the effect of n independent moves is known to 1/√n of one move's noise, and 1/√20 is some 20 %. Below
    5 a part that is held out may hold none, and nothing that is learned of actions can be checked.
    Why .05: a lag then leaves less than a quarter of the action's deviation (√.05). That does no harm where the log is
    long enough: an effect of 20 standard errors is known to 5 %. Below 4 an effect may be chance.
    """

    title: ClassVar[str] = "excitation"
    actions: tuple[str, ...]
    moves: list[int]
    held: list[float]
    """Rows per move."""
    settling: float | None
    """Rows that the plant takes to settle; None where it does not, or no model says."""
    passed: list[float]
    """Empty where the settling time is unknown."""
    seen: list[float]
    """Empty where there is no model."""
    about: bool
    """Moves are those of a part of the rows, scaled."""
    frequency: Float[np.ndarray, "f"]
    power: Float[np.ndarray, "f m"]

    @staticmethod
    def of(sample: Sample, settling: float | None = None) -> Excitation | Unsaid:
        """The check; `settling` is in rows."""
        if not (sample.age > 0).any():
            return Unsaid(Excitation.title, "no row follows another", "A log of longer episodes would tell.")
        model = StepModel.of(sample)
        if settling is None and model is not None:
            settling = model.settling()
        moves = [round(sample.total / len(sample) * _moves(sample, axis)) for axis in range(sample.action.shape[1])]
        frequency, power = _spectrum(sample)
        return Excitation(
            actions=sample.action_names,
            moves=moves,
            held=[sample.total / max(count, 1) for count in moves],
            settling=settling,
            passed=[] if settling is None else _passed(frequency, power, settling).tolist(),
            seen=[] if model is None else model.seen().tolist(),
            about=not sample.whole,
            frequency=frequency,
            power=power,
        )

    @property
    def too_fast(self) -> bool:
        """Whether some action moves too fast for a log of this length."""
        known = self.seen or [0.0] * len(self.moves)
        return any(
            share < LEAST_PASSED and errors < WELL_KNOWN for share, errors in zip(self.passed, known, strict=False)
        )

    @property
    def verdict(self) -> str:
        if min(self.moves) < NO_MOVES:
            return LOOK_HERE
        unseen = bool(self.seen) and min(self.seen) < UNSEEN
        return ADVICE if min(self.moves) < FEWEST_MOVES or unseen or self.too_fast else GOOD

    def finding(self) -> str:
        about = "about " if self.about else ""
        all_of_them = zip(self.actions, self.moves, self.held, strict=True)
        moves = ", ".join(f"{name} {about}{count:,} times (every {held:.3g} rows)" for name, count, held in all_of_them)
        told = f"the actions move: {moves}; good from {FEWEST_MOVES}"
        if self.seen:
            errors = ", ".join(f"{each:.3g}" for each in self.seen)
            told += f". Their effect on the next row: {errors} standard errors; good from {UNSEEN:g}"
        if self.settling is None:
            return f"{told}. How fast the plant settles is not known (--settling ROWS)"
        passed = ", ".join(f"{100 * share:.2g} %" for share in self.passed)
        return (
            f"{told}. The plant settles in some {self.settling:.3g} rows, and {passed} of their variance passes a lag "
            f"as slow; good from {100 * LEAST_PASSED:.0f} %, or from an effect of {WELL_KNOWN:g}"
        )

    def remedy(self) -> str:
        if min(self.moves) < FEWEST_MOVES:
            return "What an action does rests on a few moves: log on, with more of them."
        if self.too_fast and self.settling is not None:
            return (
                f"The actions move faster than the plant follows: hold each for some {max(self.settling / 3, 1):.0f} "
                "rows, or import with a longer sample time."
            )
        return (
            "An action shows no effect: look whether its column is the right one. If the plant answers late, train "
            "with a history that reaches back so far; if it is slow or noisy, log larger moves."
        )

    def draw(self, axes: Axes) -> None:
        for axis in range(self.power.shape[1]):
            axes.loglog(self.frequency[1:], np.maximum(self.power[1:, axis], 1e-30), label=self.actions[axis])
        if self.settling is not None:
            axes.axvline(-np.log(SHARE_LEFT) / self.settling / (2 * np.pi), color="0.5", linestyle=":", label="plant")
        axes.legend(frameon=False, fontsize=7)
        axes.set(xlabel="cycles per row", ylabel="power", title=f"{min(self.moves):,} moves")


def _passed(frequency: Float[np.ndarray, "f"], power: Float[np.ndarray, "f m"], settling: float) -> np.ndarray:
    """The share of each action's power that a lag with this settling time lets pass."""
    c = SHARE_LEFT ** (1 / settling)
    lag = ((1 - c) / np.abs(1 - c * np.exp(-2j * np.pi * frequency))) ** 2
    total = power.sum(axis=0)
    return lag @ power / np.where(total > 0, total, 1)


def _moves(sample: Sample, axis: int) -> int:
    """How often the action has gone MOVE of its range away from where it last did, within the pieces."""
    action = sample.action[:, axis]
    least = MOVE * np.ptp(action)
    count, last = 0, np.nan
    for value, first in zip(action.tolist(), (sample.age == 0).tolist(), strict=True):
        if first:
            last = value
        elif abs(value - last) > least:
            count, last = count + 1, value
    return count


def _spectrum(sample: Sample) -> tuple[Float[np.ndarray, "f"], Float[np.ndarray, "f m"]]:
    """Mean power per frequency over the pieces, cut to one length, of the actions less their means."""
    starts = np.flatnonzero(sample.age == 0)
    lengths = np.diff(np.append(starts, len(sample)))
    length = int(np.clip(np.median(lengths), 8, max(lengths.max(), 8)))
    centred = sample.action - sample.action.mean(axis=0)
    frequency = np.fft.rfftfreq(length)
    # Each but the first and the last stands for two.
    twice = np.where((frequency > 0) & (frequency < 0.5), 2.0, 1.0)[:, None]
    power = np.zeros((len(frequency), centred.shape[1]))
    for start, size in zip(starts.tolist(), lengths.tolist(), strict=True):
        for first in range(start, start + size - min(length, size) + 1, length):
            power += twice * np.abs(np.fft.rfft(centred[first : first + min(length, size)], length, axis=0)) ** 2
    return frequency, power


@final
@dataclass(frozen=True)
class StepModel:
    """s' = F₀ s_k + F₁ s_{k−1} + G₀ a_k + G₁ a_{k−1} + c by least squares, in deviations of s.

    Coordinates that stand still in nine rows of ten, such as set-points, are not the plant's and are left out.
    """

    F: Float[np.ndarray, "2 s s"]
    G: Float[np.ndarray, "2 s m"]
    errors: Float[np.ndarray, "2 s m"]
    """Standard errors of G."""

    @staticmethod
    def of(sample: Sample) -> StepModel | None:
        """The model; None where the log is too short for one."""
        rows = sample.follows(1)
        moving = np.flatnonzero((sample.next_obs != sample.obs).mean(axis=0) > STANDING)
        s, m = len(moving), sample.action.shape[1]
        if not s or not enough(len(rows), 2 * (s + m)):
            return None
        scale = sample.obs[:, moving].std(axis=0)
        obs, action, target = sample.obs[:, moving] / scale, sample.action, sample.next_obs[rows][:, moving] / scale
        x = np.hstack([obs[rows], obs[rows - 1], action[rows], action[rows - 1]])
        x, target = x - x.mean(axis=0), target - target.mean(axis=0)
        size = np.maximum(np.sqrt((x**2).sum(axis=0)), 1e-300)
        inverse = np.linalg.pinv((x / size).T @ (x / size), rcond=1e-10, hermitian=True) / size[:, None] / size
        weights = inverse @ (x.T @ target)
        noise = ((target - x @ weights) ** 2).sum(axis=0) / max(len(rows) - x.shape[1] - 1, 1)
        errors = np.sqrt(np.outer(np.maximum(np.diag(inverse), 0), noise))
        F, G = (part.T.reshape(s, 2, -1).transpose(1, 0, 2) for part in np.split(weights, [2 * s]))
        return StepModel(F, G, errors[2 * s :].T.reshape(s, 2, m).transpose(1, 0, 2))

    def seen(self) -> Float[np.ndarray, "m"]:
        """The largest effect of each action, in its standard errors."""
        return (np.abs(self.G) / np.maximum(self.errors, 1e-300)).max(axis=(0, 1))

    def settling(self) -> float | None:
        """Rows until the response to steps of the actions stays within SHARE_LEFT of its end; None where it never does.

        Over all coordinates that answer with a hundredth of the largest answer or more; effects that may be chance are
        left out.
        """
        G = np.where(np.abs(self.G) > UNSEEN * self.errors, self.G, 0)
        answers = [np.zeros(G[0].shape)] * 2
        for step in range(FOLLOWED):
            answers.append(self.F[0] @ answers[-1] + self.F[1] @ answers[-2] + G[0] + (G[1] if step else 0))
            if not np.abs(answers[-1]).max() < 1e9:
                return None
        found, end = np.array(answers[2:]), answers[-1]
        loud = np.abs(end) > 0.01 * np.abs(end).max()
        late = np.flatnonzero(((np.abs(found - end) > SHARE_LEFT * np.abs(end)) & loud).any(axis=(1, 2)))
        settled = 2.0 + late[-1] if len(late) else 1.0
        return settled if loud.any() and settled < FOLLOWED / 4 else None
