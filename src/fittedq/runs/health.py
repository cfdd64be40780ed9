"""An agent's figures along transitions: its own, or those of a log."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fittedq.acting.familiar import LEAST_ROWS, ROWS, Familiarity
from fittedq.acting.recent import linked_rows
from fittedq.agent import Agent
from fittedq.data.checks.coverage import Coverage
from fittedq.data.checks.sample import Sample
from fittedq.data.dataset import Dataset
from fittedq.diagnose.departure import Departure
from fittedq.diagnose.residuals import critic_residual
from fittedq.diagnose.units import dead_share
from fittedq.diagnose.values import at_one_limit, policy_drift, promise_figures
from fittedq.diagnose.verdicts import RARE, by_horizon
from fittedq.errors import UserError
from fittedq.trainers.rows import evenly
from fittedq.types import Transition

STATES = 1_000
"""Of a log, spread evenly."""


def health_figures(agent: Agent, rows: Transition, log: Dataset | None = None) -> dict[str, float]:
    """The figures that `diagnose.verdicts` judges, along consecutive rows of the agent's own, or of a `log`'s."""
    spread = rows if log is None else _spread(log.augmented(agent.augmented), STATES)
    obs = np.asarray(spread.obs, np.float32)
    action, seen = agent.act_flat(obs), agent.as_seen(spread)
    low, high = (np.broadcast_to(end, action.shape) for end in agent.action_set.bounds(obs))
    figures = {"at_one_limit": at_one_limit(action, low, high)}
    dead = dead_share(agent.nets, np.asarray(seen.obs), action)
    if dead is not None:
        figures["dead_units"] = dead
    if agent.nets.critic is not None:
        residual = critic_residual(agent.nets.critic, np.asarray(seen.obs), action, agent.action_set)
        if np.isfinite(residual).all():
            figures |= {"residual_median": float(np.median(residual)), "residual_worst": float(residual.max())}
        figures |= _promises(agent, rows, own=log is None)
    if agent.familiarity is not None:
        figures["unfamiliar"] = float((agent.familiarity(obs) < RARE).mean())
        if agent.familiarity.recent is not None:
            figures["unfamiliar_windows"] = float((_along(agent, agent.familiarity, rows) < RARE).mean())
    if log is not None:
        figures |= _of_log(agent, log)
    return figures | by_horizon(agent.measure(rows))


def drift_figures(best: Agent, last: Agent, obs: Float[np.ndarray, "b s"]) -> dict[str, float]:
    """How far a run's last policy is from its best one in these states."""
    drift = policy_drift(best.act_flat(obs), last.act_flat(obs), best.action_set)
    return {"drift_mean": float(drift.mean()), "drift_worst": float(drift.max())}


def _along(agent: Agent, known: Familiarity, rows: Transition) -> Float[np.ndarray, "n"]:
    """How familiar each of consecutive rows is, together with those before it."""
    obs, action, after = (np.asarray(part, np.float32) for part in (rows.obs, rows.action, rows.next_obs))
    state = agent.augmented
    before = [obs, action] if state is None else [obs[:, : state.obs_size], np.asarray(state.executed(obs, action))]
    seen = known.seen(after, known.past(after, np.concatenate(before, axis=1)))
    return known.recent.along(seen, linked_rows(obs, after)) if known.recent is not None else seen.familiar


def _spread(data: Dataset, count: int) -> Transition:
    return data.transitions(evenly(np.arange(len(data)), count))


def _promises(agent: Agent, rows: Transition, own: bool) -> dict[str, float]:
    """What the critic says beside what rewards allow, and, of the agent's own rows, beside what followed.

    Another policy earned a log's returns: a better one may well promise more.
    """
    reward, seen = np.asarray(rows.reward, float), agent.as_seen(rows)
    bounds = agent.value_range((float(reward.min()), float(reward.max())))
    q = agent.critic_value(np.asarray(seen.obs), np.asarray(rows.action))
    after = agent.critic_value(np.asarray(seen.next_obs), agent.act_flat(np.asarray(rows.next_obs, np.float32)))
    figures = promise_figures(q, rows, agent.algorithm.discount, bounds, after)
    return {name: value for name, value in figures.items() if own or not name.startswith("overestimation")}


def _of_log(agent: Agent, log: Dataset) -> dict[str, float]:
    """How much of the actions a log tried, and how far the policy leaves it; nothing of a log that is too short."""
    coverage = Coverage.of(Sample.of(log))
    figures = {"untried": 1.0 - coverage.least} if isinstance(coverage, Coverage) else {}
    if len(log) >= LEAST_ROWS and agent.nets.critic is not None:
        left = departure_of(agent, log).figures()
        figures |= {name: left[name] for name in ("unsupported", "unsupported_gain")}
    return figures


def departure_of(agent: Agent, log: Dataset) -> Departure:
    """How far an agent leaves a log in the environment's units; a UserError where it has no critic."""
    if agent.nets.critic is None:
        raise UserError(f"{agent.algorithm.name}: this agent has no critic, so it promises nothing.")
    rows, raw = (_spread(data, ROWS) for data in (log.augmented(agent.augmented), log))
    obs = np.asarray(rows.obs, np.float32)
    seen = np.asarray(agent.as_seen(rows).obs)

    def q(action: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n"]:
        return agent.critic_value(seen, np.asarray(action, np.float32))

    measured = np.asarray(raw.obs, np.float32)
    return Departure.of(obs, measured, np.asarray(rows.action), agent.act_flat(obs), q, agent.action_set)
