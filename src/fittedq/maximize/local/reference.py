"""SciPy's L-BFGS-B, one state and one start at a time: the reference for the batched maximizers, not compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import (
    AbstractMaximizer,
    Solution,
    Status,
    best,
    given,
    search_rows,
    value_and_gradient,
)
from fittedq.types import AbstractCritic

STATUS_OF_SCIPY = {0: Status.CONVERGED, 1: Status.ITERATION_LIMIT}


class ScipyLBFGSB(AbstractMaximizer[AbstractCritic]):
    """max_{low(s) ≤ a ≤ high(s)} q(s, a) by scipy.optimize.minimize(method="L-BFGS-B"), SciPy's own settings.

    Boxes only, fixed or state-dependent. Call it outside `jit`. Source: Byrd et al. 1995; Zhu et al. 1997.
    """

    needs_starts: ClassVar[bool] = True
    on_host: ClassVar[bool] = True

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del key
        if not action_set.separable:
            raise UserError(
                f"L-BFGS-B: found the action set {type(action_set).__name__}, expected a box; use ProjectedLBFGS, "
                "which takes any set that has a projection."
            )
        starts = given(starts)
        rows, start, bounds = (jax.device_get(part) for part in starting_rows(obs, starts, action_set))
        low, high = (np.broadcast_to(bound, start.shape).astype(float) for bound in bounds)
        found, statuses = np.array(start), np.empty(len(start), np.int32)
        for row in range(len(start)):

            def at(action: np.ndarray, row: int = row) -> tuple[float, np.ndarray]:
                batch = action[None].astype(start.dtype)
                value, gradient = compiled_value_and_gradient(critic, rows[row : row + 1], batch)
                return float(value[0]), np.asarray(gradient[0], float)

            found[row], statuses[row] = climb(at, found[row], low[row], high[row])
        return best_of_both(critic, rows, action_set, start, found, statuses, starts.shape[:2])


@eqx.filter_jit
def starting_rows(
    obs: Float[Arr, "b s"], starts: Float[Arr, "b k m"], action_set: AbstractActionSet
) -> tuple[Float[Arr, "n s"], Float[Arr, "n m"], tuple[Arr, Arr]]:
    """(states, starts, bounds), a row per search."""
    rows, start = search_rows(obs, starts, action_set)
    return rows, start, action_set.bounds(rows)


@eqx.filter_jit
def best_of_both(
    critic: AbstractCritic,
    rows: Float[Arr, "n s"],
    action_set: AbstractActionSet,
    start: Float[Arr, "n m"],
    found: Float[Arr, "n m"],
    status: Int[Arr, "n"],
    shape: tuple[int, ...],
) -> Solution:
    """The starts stand beside what was found: SciPy may end below them where q is not a number."""

    def side_by_side(one: Arr, other: Arr) -> Arr:
        return jnp.concatenate([one.reshape(*shape, *one.shape[1:]), other.reshape(*shape, *other.shape[1:])], axis=1)

    found = action_set.project(found, rows)
    return best(
        side_by_side(found, start),
        side_by_side(critic.least(rows, found), critic.least(rows, start)),
        side_by_side(status, jnp.full_like(status, Status.ITERATION_LIMIT)),
    )


compiled_value_and_gradient = eqx.filter_jit(value_and_gradient)


def climb(
    value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: Float[np.ndarray, "m"],
    low: Float[np.ndarray, "m"],
    high: Float[np.ndarray, "m"],
) -> tuple[Any, int]:
    """(action, status) of one search from `start`, of a function of one action that gives (q, ∂q/∂a)."""
    # JAX itself requires SciPy; importing it takes a moment that other maximizers need not wait.
    from scipy.optimize import minimize

    def descent(action: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_gradient(action)
        return -value, -gradient

    result = minimize(descent, start, method="L-BFGS-B", jac=True, bounds=list(zip(low, high, strict=True)))
    return result.x, STATUS_OF_SCIPY.get(result.status, Status.STALLED)
