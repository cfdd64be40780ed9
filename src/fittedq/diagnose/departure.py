"""How far a policy leaves the log that it was learned from, and what its critic promises there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.acting.familiar import LEAST_ROWS, Units, stretches
from fittedq.actions.base import AbstractActionSet
from fittedq.data.checks.coverage import PER_STRETCH
from fittedq.diagnose.pictures import drawing, save_picture
from fittedq.diagnose.verdicts import RARE
from fittedq.errors import UserError
from fittedq.files import make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIKE_STATES = 30
LEAST_RADIUS = 0.05
"""In half-widths: actions nearer to one another are the same for any plant, whatever noise the log has."""
GAIN_PARTS = 5
ALIKE = 0.9
"""The correlation from which two coordinates show the same."""
SHOWN_ACTIONS = 4

ValuesThere = Callable[[Float[np.ndarray, "n m"]], Float[np.ndarray, "n"]]
"""q of one action in each state."""


@final
@dataclass(frozen=True)
class Departure:
    """d(s, a) = min_n ‖(a − a_n) / half_width‖ over the actions a_n that were tried in states like s.

    These are the LIKE_STATES rows nearest to s, in deviations, of other tenths of the log. An action is supported where
    d(s, a) ≤ `radius`, which 95 % of the log's own actions keep, and at least 0.05. If the policy stayed, it took the
    supported action next to π(s) on the line to the nearest one tried. The gain is q(s, π(s)) − q(s, a), a the log's.
    """

    obs: Float[np.ndarray, "n s"]
    logged: Float[np.ndarray, "n m"]
    policy: Float[np.ndarray, "n m"]
    tried: Float[np.ndarray, "n m"]
    """The action tried in like states that is nearest to the policy's."""
    stayed: Float[np.ndarray, "n m"]
    distance: Float[np.ndarray, "n"]
    radius: float
    q_logged: Float[np.ndarray, "n"]
    q_stayed: Float[np.ndarray, "n"]
    q_policy: Float[np.ndarray, "n"]
    half_width: Float[np.ndarray, "m"]

    @staticmethod
    def of(
        obs: Float[np.ndarray, "n s"],
        measured: Float[np.ndarray, "n o"],
        logged: Float[np.ndarray, "n m"],
        policy: Float[np.ndarray, "n m"],
        q: ValuesThere,
        action_set: AbstractActionSet,
    ) -> Departure:
        """Of rows of a log in order, with the policy's actions in their states; a UserError where they are too few.

        States are alike by what was `measured`, without the past that `obs` may hold: past actions tell the next one
        in any log that holds them.
        """
        if len(obs) < LEAST_ROWS:
            raise UserError(
                f"support: found {len(obs)} rows, expected at least {LEAST_ROWS} to find like states among."
            )
        half_width = np.asarray(action_set.half_width, np.float64)
        near = _like_states(Units.of(measured)(measured), logged)
        tried, distance = _nearest_tried(policy, logged[near], half_width)
        own = _nearest_tried(logged, logged[near], half_width)[1]
        radius = max(float(np.quantile(own, 1 - RARE)), LEAST_RADIUS)
        reached = tried + (radius / np.maximum(distance, radius))[:, None] * (policy - tried)
        reached = np.asarray(action_set.project(reached.astype(np.float32), obs))
        stayed = np.where(distance[:, None] > radius, reached, policy)
        q_logged, q_stayed, q_policy = (np.asarray(q(action), np.float64) for action in (logged, stayed, policy))
        return Departure(obs, logged, policy, tried, stayed, distance, radius, q_logged, q_stayed, q_policy, half_width)

    @property
    def unsupported(self) -> Bool[np.ndarray, "n"]:
        """Where the policy's action is further from those tried than 95 % of the log's own are."""
        return self.distance > self.radius

    @property
    def gain(self) -> Float[np.ndarray, "n"]:
        """What the critic promises beyond the log's own action."""
        return self.q_policy - self.q_logged

    def figures(self) -> dict[str, float]:
        """Means over the states, in units of return, and shares."""
        gains = np.maximum(self.gain, 0)
        total = float(gains.sum())
        return {
            "unsupported": float(self.unsupported.mean()),
            "unsupported_gain": float(gains[self.unsupported].sum()) / total if total else 0.0,
            "support_radius": self.radius,
            "q_log": float(self.q_logged.mean()),
            "q_stayed": float(self.q_stayed.mean()),
            "q_policy": float(self.q_policy.mean()),
        }

    def told(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**self.figures(), "per_action": self.per_action(), "where": self.where()}

    def per_action(self) -> list[dict[str, float]]:
        """|π_i(s) − a_n,i| in half-widths, of each action i: its median, and what 95 % of the states stay below."""
        away = np.abs(self.policy - self.tried) / self.half_width
        return [
            {"median": float(median), "p95": float(p95)}
            for median, p95 in zip(*np.quantile(away, (0.5, 0.95), axis=0), strict=True)
        ]

    def where(self) -> dict[str, Any]:
        """The coordinate of the state whose fifths differ most in gain, and these fifths."""
        coordinate = self.coordinates()[0]
        column = self.obs[:, coordinate]
        fifths = _fifths(column)
        parts = [
            {
                "from": float(column[fifths == part].min()),
                "to": float(column[fifths == part].max()),
                "gain": float(self.gain[fifths == part].mean()),
                "unsupported": float(self.unsupported[fifths == part].mean()),
            }
            for part in np.unique(fifths)
        ]
        return {"coordinate": coordinate, "explains": _between(self.gain, fifths), "parts": parts}

    def coordinates(self) -> tuple[int, int]:
        """The coordinate of the state by whose fifths the gain differs most, and the next that is not all but the
        same."""
        shares = [_between(self.gain, _fifths(column)) for column in self.obs.T]
        first, *rest = np.argsort(shares)[::-1].tolist()
        centered = self.obs - self.obs.mean(axis=0, dtype=np.float64)
        size = np.maximum(np.linalg.norm(centered, axis=0), 1e-30)
        alike = np.abs(centered.T @ centered[:, first]) / (size * size[first])
        others = [place for place in rest if alike[place] < ALIKE]
        return first, (others or rest or [first])[0]

    # ------------------------------------------------------------------ pictures

    def draw(self, folder: Path) -> None:
        """leaves.png, stays.png and gain.png."""
        make_folder(folder)
        self._draw_leaves(folder / "leaves.png")
        self._draw_stays(folder / "stays.png")
        self._draw_gain(folder / "gain.png")

    def _draw_leaves(self, path: Path) -> None:
        """Each action, logged and the policy's, over the coordinate that explains the gain best."""
        pyplot, (coordinate, _) = drawing(), self.coordinates()
        shown = min(self.policy.shape[1], SHOWN_ACTIONS)
        figure, axes = pyplot.subplots(1, shown, figsize=(4.4 * shown, 3.4), layout="constrained", squeeze=False)
        x = self.obs[:, coordinate]
        for axis, place in zip(axes[0], range(shown), strict=True):
            axis.plot(x, self.logged[:, place], ".", color="0.7", markersize=3, label="the log")
            for of, color, name in ((~self.unsupported, "C0", "policy"), (self.unsupported, "C3", "unsupported")):
                axis.plot(x[of], self.policy[of, place], ".", color=color, markersize=4, label=name)
            axis.set(xlabel=f"observation {coordinate}", ylabel=f"action {place}")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0][0].legend(frameon=False, fontsize=8)
        figure.suptitle(f"{self.unsupported.mean():.0%} of the states have an action unlike those tried", fontsize=9)
        save_picture(figure, path)
        pyplot.close(figure)

    def _draw_stays(self, path: Path) -> None:
        """The critic's mean value of the log's actions, of the supported ones next to the policy's, and of these."""
        pyplot = drawing()
        figure, (bars, spread) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        means = [float(part.mean()) for part in (self.q_logged, self.q_stayed, self.q_policy)]
        bars.bar(["the log", "if it stayed", "policy"], means, color=["0.7", "C0", "C3"])
        bars.set(ylabel="mean q")
        spread.hist(self.q_policy - self.q_stayed, bins=40, color="C3")
        spread.set(xlabel="q(s, π(s)) less q if it stayed", ylabel="states")
        for axis in (bars, spread):
            axis.spines[["top", "right"]].set_visible(False)
        save_picture(figure, path)
        pyplot.close(figure)

    def _draw_gain(self, path: Path) -> None:
        """The gain over the two coordinates that explain it best, unsupported states ringed; and by its fifths."""
        pyplot, (first, second), where = drawing(), self.coordinates(), self.where()
        figure, (states, parts) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        limit = float(np.quantile(np.abs(self.gain), 0.98)) or 1.0
        order = np.argsort(np.abs(self.gain))
        x, y = self.obs[:, first], self.obs[:, second]
        image = states.scatter(x[order], y[order], c=self.gain[order], s=9, cmap="coolwarm", vmin=-limit, vmax=limit)
        ring: dict[str, Any] = {"s": 16, "facecolors": "none", "edgecolors": "black", "linewidths": 0.5}
        states.scatter(x[self.unsupported], y[self.unsupported], **ring)
        figure.colorbar(image, ax=states, label="gain")
        states.set(xlabel=f"observation {first}", ylabel=f"observation {second}", title="ringed: unsupported")
        _draw_parts(parts, where)
        save_picture(figure, path)
        pyplot.close(figure)


def _draw_parts(axis: Axes, where: dict[str, Any]) -> None:
    names = [f"{part['from']:.3g} …\n{part['to']:.3g}" for part in where["parts"]]
    gains = [part["gain"] for part in where["parts"]]
    bars = axis.bar(names, gains, color="C0")
    axis.bar_label(bars, [f"{part['unsupported']:.0%}" for part in where["parts"]], fontsize=8)
    axis.set(
        xlabel=f"observation {where['coordinate']}", ylabel="mean gain", title="on each bar: the share unsupported"
    )
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _like_states(seen: Float[np.ndarray, "n s"], action: Float[np.ndarray, "n m"]) -> Int[np.ndarray, "n k"]:
    """Of each row, the LIKE_STATES nearest rows of other stretches, among rows that do not only hold an action on."""
    rows = _not_held(action)
    reference, stretch = seen[rows], stretches(len(seen))
    lengths, count, found = (reference**2).sum(axis=1), min(LIKE_STATES, len(rows) // 2), []
    for part in np.array_split(np.arange(len(seen)), max(1, len(seen) // 500)):
        squares = lengths - 2 * seen[part] @ reference.T
        squares[stretch[part][:, None] == stretch[rows]] = np.inf
        found.append(rows[np.argpartition(squares, count - 1, axis=1)[:, :count]])
    return np.concatenate(found)


def _not_held(action: Float[np.ndarray, "n m"]) -> Int[np.ndarray, "r"]:
    """Rows whose action is another than that of the row before, or, where few are, the same for PER_STRETCH rows: a
    plant at rest must not be all that is like a state."""
    new = np.ones(len(action), bool)
    new[1:] = (action[1:] != action[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    place = np.arange(len(action)) - np.repeat(starts, np.diff(np.append(starts, len(action))))
    kept = np.flatnonzero(place < PER_STRETCH)
    return kept if len(kept) >= LEAST_ROWS // 2 else np.arange(len(action))


def _nearest_tried(
    action: Float[np.ndarray, "n m"], tried: Float[np.ndarray, "n k m"], half_width: Float[np.ndarray, "m"]
) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n"]]:
    """(the nearest of the actions tried, its distance in half-widths)."""
    distance = np.linalg.norm((action[:, None].astype(np.float64) - tried) / half_width, axis=2)
    row, nearest = np.arange(len(action)), distance.argmin(axis=1)
    return tried[row, nearest], distance[row, nearest]


def _fifths(column: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    return np.searchsorted(np.quantile(column, np.arange(1, GAIN_PARTS) / GAIN_PARTS), column)


def _between(values: Float[np.ndarray, "n"], part: Int[np.ndarray, "n"]) -> float:
    """The share of the variance that lies between the means of parts."""
    means = np.zeros(len(values))
    for one in np.unique(part):
        means[part == one] = values[part == one].mean()
    return float(means.var() / max(values.var(), 1e-30))
