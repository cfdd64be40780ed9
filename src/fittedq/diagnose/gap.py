"""The amortization gap: how far a policy is from the maximum of its own critic, as an interval that is proven."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.host import to_host
from fittedq.arrays import Arr
from fittedq.diagnose.residuals import critic_residual
from fittedq.errors import UserError
from fittedq.maximize.base import Effort, Status
from fittedq.maximize.choose import proven
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.settings import real
from fittedq.template.greedy import Solved
from fittedq.types import AbstractCritic, AbstractPolicy, Components

SAMPLED_ACTIONS = 256
"""Actions per state from which the range of q is read."""


@dataclass(frozen=True)
class Gap:
    """lower ≤ max_{a ∈ A(s)} q(s, a) − q(s, π(s)) ≤ upper per state, q = min_j q_j, in units of return.

    `scale` is the range of q over A(s): the greatest value found less the least of some hundred sampled actions, so
    relative gaps err upwards. `residual` is ‖a − Π_A(a + ∇_a q)‖_∞ at π(s), in half-widths; NaN where q has no
    gradient. `status` says how each search ended (`Status`). `softness` is what the policy may give up for its entropy:
    actions ∝ exp(q/β) lie m β/2 below the maximum of a quadratic q on the average, m the dimension of the action, and
    twice that is allowed; 0 for a policy without a temperature β.
    """

    obs: Float[np.ndarray, "b s"]
    policy_action: Float[np.ndarray, "b m"]
    policy_value: Float[np.ndarray, "b"]
    best_action: Float[np.ndarray, "b m"]
    best_value: Float[np.ndarray, "b"]
    upper_bound: Float[np.ndarray, "b"]
    scale: Float[np.ndarray, "b"]
    residual: Float[np.ndarray, "b"]
    status: Int[np.ndarray, "b"]
    softness: Float[np.ndarray, "b"]

    @property
    def lower(self) -> Float[np.ndarray, "b"]:
        """The gap is at least this: an action that much better is known."""
        return np.maximum(self.best_value - self.policy_value, 0)

    @property
    def upper(self) -> Float[np.ndarray, "b"]:
        """The gap is at most this: no action is better by more."""
        return np.maximum(self.upper_bound - self.policy_value, self.lower)

    def times(self, unit: float) -> Gap:
        """The same gap in another unit of return."""
        names = ("policy_value", "best_value", "upper_bound", "scale", "softness")
        return (
            self if unit == 1.0 else dataclasses.replace(self, **{name: unit * getattr(self, name) for name in names})
        )

    @property
    def relative(self) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b"]]:
        """(lower, upper) as shares of the range of q."""
        scale = np.maximum(self.scale, np.finfo(np.float32).tiny)
        return self.lower / scale, self.upper / scale

    def worst(self, count: int) -> Int[np.ndarray, "k"]:
        """The states of the greatest certain relative gap, the worst first."""
        return np.argsort(-self.relative[0], kind="stable")[:count]

    @property
    def statuses(self) -> dict[str, int]:
        """How many states' searches ended in which way."""
        return Status.counts(self.status)

    def summary(self, within: float = 0.05) -> dict[str, float]:
        """Median, 95th percentile and worst of both ends, and three shares of the states.

        `policy_good`: the policy is certainly within `within` of the range of q, or within its softness, so any fault
        there is the critic's. `actor_fails`: it certainly is not. `undecided`: the interval holds both.
        """
        lower, upper = self.relative
        figures: dict[str, float] = {
            "states": len(self.lower),
            "within": within,
            "softness": float(self.softness.max()),
        }
        for name, values in (
            ("lower", self.lower),
            ("upper", self.upper),
            ("relative_lower", lower),
            ("relative_upper", upper),
        ):
            figures |= {
                f"{name}_median": float(np.median(values)),
                f"{name}_p95": float(np.quantile(values, 0.95)),
                f"{name}_worst": float(values.max()),
            }
        allowed = np.maximum(within * self.scale, self.softness)
        figures["policy_good"] = float(np.mean(self.upper <= allowed))
        figures["actor_fails"] = float(np.mean(self.lower > allowed))
        figures["undecided"] = 1 - figures["policy_good"] - figures["actor_fails"]
        if np.isfinite(self.residual).any():
            figures["residual_median"] = float(np.nanmedian(self.residual))
            figures["residual_worst"] = float(np.nanmax(self.residual))
        return figures

    @staticmethod
    def joined(parts: list[Gap]) -> Gap:
        """One gap of several batches of states."""
        names = [field.name for field in dataclasses.fields(Gap)]
        return Gap(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def amortization_gap(
    critic: AbstractCritic,
    obs: Float[np.ndarray, "b s"],
    policy_action: Float[np.ndarray, "b m"],
    action_set: AbstractActionSet,
    *,
    tol: float = 1e-2,
    time_limit: float | None = None,
    state_time_limit: float | None = 10.0,
    temperature: float = 0.0,
) -> Gap:
    """The gap of `policy_action` at states as the critic sees them, to `tol` of the range of q where time allows.

    `temperature` is β of a policy that is to be ∝ exp(q/β), in units of the critic; 0 for one that maximizes q.
    The maximizer is that of `proven` for the critic: branch and bound for neural ones and trees, a sweep for trees with
    one action, a closed form for quadratics, your own where you registered one.
    Errors: `UserError` for a critic whose maximum nothing here can bound.
    """
    tol = real(tol, "tol", "a share of the range of q, above 0", low=math.ulp(0.0))
    time_limit, state_time_limit = (
        None if limit is None else real(limit, name, "seconds of at least 0, or None")
        for name, limit in (("time_limit", time_limit), ("state_time_limit", state_time_limit))
    )
    temperature = real(temperature, "temperature", "units of return, at least 0", low=0.0)
    critic = to_host(critic)
    policy_value = np.asarray(critic.least(obs, policy_action))
    values = _sampled_values(critic, obs, action_set)
    found = np.maximum(values.max(axis=1), policy_value)
    wanted = tol * (found - values.min(axis=1)) / np.maximum(1, np.abs(found))
    seconds, state_seconds = (math.inf if limit is None else limit for limit in (time_limit, state_time_limit))
    effort = Effort(float(np.clip(wanted.min(), 1e-5, 1.0)), seconds, state_seconds)
    maximizer = proven(critic, action_set, effort)
    solution = None if maximizer is None else maximizer(critic, obs, action_set, policy_action[:, None])
    if solution is None or solution.upper_bound is None:
        raise UserError(
            f"gap: found a critic of type {type(critic).__name__} with {action_set.size} action dimensions, expected a "
            "neural one, trees in a box or a polynomial of degree 2, whose maximum can be bounded."
        )
    best_value = np.asarray(solution.value)
    return Gap(
        obs=obs,
        policy_action=policy_action,
        policy_value=policy_value.astype(float),
        best_action=np.asarray(solution.action),
        best_value=best_value.astype(float),
        upper_bound=np.asarray(solution.upper_bound, float),
        scale=np.maximum(best_value, values.max(axis=1)) - values.min(axis=1).astype(float),
        residual=critic_residual(critic, obs, policy_action, action_set),
        status=np.asarray(solution.status, np.int32),
        softness=np.full(len(obs), action_set.size * temperature),
    )


def _sampled_values(critic: AbstractCritic, obs: np.ndarray, action_set: AbstractActionSet) -> Float[np.ndarray, "b k"]:
    """q at the same random actions and corners of the box for every state, projected."""
    rng = np.random.default_rng(0)
    unit = rng.uniform(-1, 1, (SAMPLED_ACTIONS, action_set.size)).astype(np.float32)
    unit[: SAMPLED_ACTIONS // 2] = np.sign(unit[: SAMPLED_ACTIONS // 2])
    action = np.asarray(action_set.from_unit(unit))
    values = np.empty((len(obs), len(action)), np.float32)
    for row, state in enumerate(obs):
        states = np.repeat(state[None], len(action), axis=0)
        values[row] = critic.least(states, np.asarray(action_set.project(action, states)))
    return values


CHEAP_STARTS, CHEAP_STEPS = 4, 25


def gap_figures(nets: Components, obs: Float[np.ndarray, "b s"], unit: float = 1.0) -> dict[str, float]:
    """A lower bound of the gap by a local solver, in one compiled call: median and 95th percentile over `obs`.

    `unit` is the critic's, in the rewards' own.

    Starts are the policy's action and random ones that are the same each time. Nothing is proven from above.
    """
    key = jax.random.key_data(jax.random.key(0))
    gap = unit * np.asarray(_local_gap(jax.tree.map(jnp.asarray, (nets.critic, nets.policy)), jnp.asarray(obs), key))
    return {"gap/lower_median": float(np.median(gap)), "gap/lower_p95": float(np.quantile(gap, 0.95))}


@eqx.filter_jit
def _local_gap(nets: tuple[AbstractCritic, AbstractPolicy], obs: Arr, key: PRNGKeyArray) -> Arr:
    critic, policy = nets
    solved = Solved(ProjectedAscent(steps=CHEAP_STEPS), CHEAP_STARTS)
    start_key, key = jax.random.split(key)
    starts = solved.starts(Components(critic=critic, policy=policy), obs, start_key, None)
    solution = solved.chosen(critic)(critic, obs, critic.action_set, starts, key)
    action = policy.act(obs, jnp.zeros((obs.shape[0], critic.action_set.size), obs.dtype))
    return solution.value - critic.least(obs, action)
