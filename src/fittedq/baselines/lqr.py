"""The linear-quadratic regulator of a linear model, with a set-point or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from fittedq.acting.episodes import AbstractController
from fittedq.actions.base import Box
from fittedq.baselines.linear_model import LinearModel
from fittedq.diagnose.control import Tracked
from fittedq.envs.flat import FlatEnv
from fittedq.errors import UserError

UNSTABLE = 1 - 1e-9
"""An eigenvalue of this size or more does not die out by itself."""
UNREACHED = 1e-9
"""A mode on which the actions act by less than this share does not feel them."""


@final
@dataclass(frozen=True)
class LQR(AbstractController[None]):
    """a = sat(a* − K (x − x*)), (x*, a*) the point of rest of x' = Ax + Ba + c at which Cx* is the set-point.

    [x*; a*] = `rest` + `per_setpoint` · r, r the observed set-points of `tracked`, in their order.
    """

    gain: Float[np.ndarray, "m x"]
    """K."""
    cost: Float[np.ndarray, "x x"]
    """P: the cost from x is (x − x*)ᵀ P (x − x*), as long as no action is at a limit."""
    rest: Float[np.ndarray, "xm"]
    per_setpoint: Float[np.ndarray, "xm p"]
    states: tuple[int, ...]
    tracked: tuple[Tracked, ...]
    action_set: Box

    @staticmethod
    def of(
        model: LinearModel,
        Q: object,
        R: object,
        *,
        action_set: Box,
        tracked: Sequence[Tracked] = (),
        gamma: float = 1.0,
    ) -> LQR:
        """K = γ (R + γ BᵀPB)⁻¹ BᵀPA, P = Q + γ Aᵀ P A − γ AᵀPB K: least Σ γᵗ (x̃ᵀQx̃ + ãᵀRã), x̃ = x − x*, ã = a − a*.

        P is SciPy's solution of the discrete Riccati equation. Q and R are matrices, or their diagonals. What is
        `tracked` is measured among the states. Without it, x* is the smallest point of rest.
        """
        A, B = model.A, model.B
        Q, R = _weights(Q, len(A), "Q", least=0.0), _weights(R, B.shape[1], "R", least=1e-300)
        if not 0 < gamma <= 1:
            raise UserError(f"found {gamma:g}, expected a number above 0 and at most 1.", argument="gamma")
        if action_set.size != B.shape[1]:
            raise UserError(f"LQR: found B for {B.shape[1]} actions and a box of {action_set.size}.")
        A, B = np.sqrt(gamma) * A, np.sqrt(gamma) * B
        _refuse_unstabilizable(A, B, model.states)
        solved = _solved(A, B, Q, R)
        if solved is None:
            raise UserError(
                "LQR: the Riccati equation has no solution that stabilizes; let Q weigh every state that does not come "
                "to rest by itself."
            )
        P, gain = solved
        rest, per_setpoint = _rest(model, tuple(tracked))
        return LQR(gain, P, rest, per_setpoint, model.states, tuple(tracked), action_set)

    def __str__(self) -> str:
        return f"LQR(K={np.round(self.gain, 4).tolist()})"

    def start(self, number: int) -> None:
        del number

    def step(self, memory: None, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], None]:
        setpoints = [one.signals(obs)[1] for one in self.tracked if one.setpoint is not None]
        rest = self.rest + np.reshape(setpoints, (len(setpoints), len(obs))).T @ self.per_setpoint.T
        size = len(self.states)
        away = np.asarray(obs, np.float64)[:, list(self.states)] - rest[:, :size]
        return np.asarray(self.action_set.project(rest[:, size:] - away @ self.gain.T, obs)), memory

    def check(self, env: FlatEnv) -> None:
        size = env.spaces.observation.size
        for one in self.tracked:
            one.check(size)
        if max(self.states) >= size or env.box.size != self.action_set.size:
            raise UserError(
                f"{self} is for {self.action_set.size} actions and reads observation {max(self.states)}; the "
                f"environment takes {env.box.size} and gives {size} numbers."
            )


def _weights(value: object, size: int, name: str, least: float) -> Float[np.ndarray, "n n"]:
    """A symmetric matrix of that size with no eigenvalue below `least`, given in full or by its diagonal."""
    found = np.asarray(value, np.float64)
    matrix = np.diag(found) if found.ndim == 1 else found
    if matrix.shape != (size, size):
        raise UserError(f"LQR: found {name} of shape {found.shape}, expected ({size},) or ({size}, {size}).")
    symmetric = bool(np.isfinite(matrix).all()) and bool(np.allclose(matrix, matrix.T))
    if not symmetric or np.linalg.eigvalsh(matrix)[0] < least - 1e-12 * np.abs(matrix).max():
        kind = "positive definite" if least > 0 else "positive semidefinite"
        raise UserError(f"LQR: found {name} {found.tolist()}, expected a symmetric, {kind} matrix or its diagonal.")
    return matrix


def _refuse_unstabilizable(A: Float[np.ndarray, "x x"], B: Float[np.ndarray, "x m"], states: tuple[int, ...]) -> None:
    """Hautus: every λ with |λ| ≥ 1 needs rank [λI − A, B] = x. Source: Hautus 1969."""
    for value in np.linalg.eigvals(A):
        if abs(value) < UNSTABLE:
            continue
        left, singular, _ = np.linalg.svd(np.concatenate([value * np.eye(len(A)) - A, B], axis=1))
        if singular[-1] < UNREACHED * singular[0]:
            at = states[int(np.abs(left[:, -1]).argmax())]
            raise UserError(
                f"LQR: no action moves the mode with eigenvalue {abs(value):.4g} (most of it in observation {at}), and "
                "it does not die out by itself; leave that coordinate out of `states` where it is a set-point or a "
                "disturbance."
            )


def _solved(
    A: Float[np.ndarray, "x x"], B: Float[np.ndarray, "x m"], Q: Float[np.ndarray, "x x"], R: Float[np.ndarray, "m m"]
) -> tuple[Float[np.ndarray, "x x"], Float[np.ndarray, "m x"]] | None:
    """(P, K) of the discrete Riccati equation; None where no K makes A − BK stable."""
    from scipy.linalg import solve_discrete_are

    try:
        P = np.asarray(solve_discrete_are(A, B, Q, R))
    except (np.linalg.LinAlgError, ValueError):
        return None
    gain = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    return (P, gain) if np.abs(np.linalg.eigvals(A - B @ gain)).max() < UNSTABLE else None


def _rest(
    model: LinearModel, tracked: tuple[Tracked, ...]
) -> tuple[Float[np.ndarray, "xm"], Float[np.ndarray, "xm p"]]:
    """[x*; a*] = rest + per_setpoint · r: the shortest least-squares solution of (A − I) x* + B a* = −c, C x* = r.

    r are the set-points that are observed; those that are numbers are in `rest`.
    Source: Franklin, Powell & Workman 1998, "Digital Control of Dynamic Systems", section 8.4.
    """
    size, actions = model.B.shape
    missing = [one.measured for one in tracked if one.measured not in model.states]
    if missing:
        raise UserError(f"LQR: observation {missing[0]} is tracked, and not among the states {list(model.states)}.")
    C = np.zeros((len(tracked), size + actions))
    C[np.arange(len(tracked)), [model.states.index(one.measured) for one in tracked]] = 1.0
    system = np.concatenate([np.concatenate([model.A - np.eye(size), model.B], axis=1), C])
    observed = [row for row, one in enumerate(tracked) if one.setpoint is not None]
    constant = np.concatenate([-model.c, [one.target or 0.0 for one in tracked]])
    moving = np.concatenate([np.zeros((size, len(observed))), np.eye(len(tracked))[:, observed]])
    rest, per_setpoint = (np.linalg.lstsq(system, side, rcond=None)[0] for side in (constant, moving))
    if not np.allclose(system @ per_setpoint, moving, atol=1e-6):
        raise UserError(
            f"LQR: the model has no point of rest for every set-point of {len(observed)} measured values with "
            f"{actions} {'action' if actions == 1 else 'actions'}; observe as many set-points as there are actions at "
            "most, and set `target` for the others."
        )
    return rest, per_setpoint
