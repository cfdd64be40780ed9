"""Value iteration on a dense grid: the ground truth where no formula gives V*, for one or two state dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

MAX_SWEEPS = 100_000

NoiselessStep = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(obs [b,s], action [b,m]) → (reward [b], next_obs [b,s]): noiseless, and without an end."""


@dataclass(frozen=True)
class GridValue:
    """V* at the points of a grid, linear between them, and the best action at each point."""

    axes: tuple[Float[np.ndarray, "_"], ...]
    points: Float[np.ndarray, "n s"]
    value: Float[np.ndarray, "n"]
    action: Float[np.ndarray, "n m"]

    def __call__(self, obs: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b"]:
        """V*(s), for states within the grid."""
        corner, weight = _corners(self.axes, obs)
        if not (inside := weight.sum(axis=-1) > 0).all():
            raise ValueError(f"state {obs[np.argmin(inside)]} lies outside the grid")
        return np.sum(weight * self.value[corner], axis=-1)


def value_iteration(
    step: NoiselessStep,
    axes: Sequence[Float[np.ndarray, "_"]],
    actions: Float[np.ndarray, "k m"],
    gamma: float,
    tolerance: float = 1e-9,
) -> GridValue:
    """V ← max_a r(s, a) + γ V(s'), V linear between the points of a grid, to within `tolerance` of its limit.

    `axes` are the grid's coordinates, ascending, one array per dimension; `actions` the actions tried at every point.
    An action whose s' leaves the grid is not admissible: the answer is that of the unbounded state space where best
    trajectories stay inside, which a wider grid shows. Interpolation errs by O(spacing² V'' / (1 − γ)), the choice of
    `actions` by as much; both fall fourfold where spacings are halved. Raises ValueError where every action of a state
    leaves the grid.
    """
    axes = tuple(np.asarray(axis, np.float64) for axis in axes)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    n, k = len(points), len(actions)
    reward, next_obs = step(np.repeat(points, k, axis=0), np.tile(actions, (n, 1)))
    corner, weight = _corners(axes, next_obs)
    reward = np.where(weight.sum(axis=-1) > 0, reward, -np.inf).reshape(n, k)
    if not (possible := np.isfinite(reward).any(axis=1)).all():
        raise ValueError(f"every action leaves the grid from {points[np.argmin(possible)]}")

    def q(value: np.ndarray) -> np.ndarray:
        return reward + gamma * np.einsum("ij,ij->i", weight, value[corner]).reshape(n, k)

    value = np.zeros(n)
    for _ in range(MAX_SWEEPS):
        value, previous = q(value).max(axis=1), value
        # ‖V_{j+1} − V*‖ ≤ γ / (1 − γ) ‖V_{j+1} − V_j‖, by contraction.
        if gamma * np.abs(value - previous).max() <= tolerance * (1 - gamma):
            return GridValue(axes, points, value, actions[q(value).argmax(axis=1)])
    raise ValueError(f"value iteration did not converge in {MAX_SWEEPS} sweeps")


def _corners(
    axes: Sequence[np.ndarray], obs: Float[np.ndarray, "b s"]
) -> tuple[Int[np.ndarray, "b c"], Float[np.ndarray, "b c"]]:
    """The 2^s grid points around each state and their weights, all 0 outside the grid: V(s) = Σ weight V[corner]."""
    inside = np.ones(len(obs), bool)
    lower, share = [], []
    for axis, x in zip(axes, np.asarray(obs, np.float64).T, strict=True):
        # What rounding puts beyond an edge is at the edge.
        margin = 1e-9 * (axis[-1] - axis[0])
        inside &= (x >= axis[0] - margin) & (x <= axis[-1] + margin)
        cell = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, len(axis) - 2)
        lower.append(cell)
        share.append(np.clip((x - axis[cell]) / (axis[cell + 1] - axis[cell]), 0, 1))
    shape = tuple(len(axis) for axis in axes)
    corner, weight = [], []
    for upper in itertools.product((0, 1), repeat=len(axes)):
        corner.append(np.ravel_multi_index([cell + step for cell, step in zip(lower, upper, strict=True)], shape))
        weight.append(
            inside * np.prod([part if up else 1 - part for part, up in zip(share, upper, strict=True)], axis=0)
        )
    return np.stack(corner, axis=-1), np.stack(weight, axis=-1)
