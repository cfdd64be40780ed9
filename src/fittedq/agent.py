"""What training gives: an agent that acts, values, evaluates, and can be saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fittedq import algorithms
from fittedq.action_sets import describe, described
from fittedq.algorithms.base import Algorithm
from fittedq.approx.host import host_view, to_host
from fittedq.approx.linear import AbstractFeatures
from fittedq.approx.trees import TreeCritic
from fittedq.data.statistics import RunningMoments
from fittedq.diagnose.gap import Gap, amortization_gap
from fittedq.envs.gym import EnvLike
from fittedq.envs.native import AbstractJaxEnv, find_jax_env
from fittedq.errors import UserError
from fittedq.evaluate import episodes, episodes_at_once, whole_episodes
from fittedq.files import load_folder, save_folder
from fittedq.greedy import CriticValue
from fittedq.maximize.refine import refined
from fittedq.programs import keep_programs
from fittedq.settings import as_dict, from_json, split_settings
from fittedq.train import from_arrays, to_arrays
from fittedq.types import AbstractActionSet, Approximators, Transition


class Agent:
    """A policy and its critics, on the host, in the environment's own units."""

    def __init__(
        self,
        algorithm: Algorithm,
        obs_size: int,
        action_set: AbstractActionSet,
        nets: Approximators,
        moments: RunningMoments | None = None,
        env_id: str | None = None,
    ):
        keep_programs()
        self.algorithm, self.obs_size, self.action_set = algorithm, obs_size, action_set
        self.nets, self.moments = to_host(nets), None if moments is None else to_host(moments)
        self._objective: CriticValue | None = None
        self._policy, self._critic = algorithm.controller(self.nets), host_view(self.nets.critic)
        self.env_id = env_id
        """The id it was trained on, as text; nothing is ever built from a saved one unasked."""

    def act(
        self, obs: Any, *, refine: int = 0, trust: float = 0.1, deadline: float | None = None
    ) -> Float[np.ndarray, "*b m"]:
        """π(s), the mode: for one observation [s] or a batch [b, s], inside the action set.

        `refine` steps of a solver improve it by the critic's own measure, never leaving `trust` half-widths around π(s)
        and never ending worse; `deadline`, in seconds, ends them early. The first call compiles.
        """
        batch, single = self._batch(obs, self.obs_size, "observation")
        seen = self._normalize(batch)
        action = self._policy.act(seen, np.zeros((batch.shape[0], self.action_set.size), np.float32))
        action = np.asarray(self.action_set.project(action, batch))
        if refine:
            if self.nets.critic is None or isinstance(self.nets.critic, TreeCritic):
                raise UserError("refine: found no critic with a gradient; act without it.")
            if self._objective is None:
                self._objective = CriticValue(jax.tree.map(jnp.asarray, self.nets.critic))
            limits = {"steps": refine, "trust": trust, "deadline": deadline}
            action = refined(self._objective, seen, action, self.action_set, **limits)
        return action[0] if single else action

    def critic_value(self, seen: Float[np.ndarray, "b s"], action: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b"]:
        """min_j q_j at states as the critic sees them (normalized, where the agent normalizes)."""
        if self._critic is None:
            raise UserError(f"{self.algorithm.name}: this agent has no critic, so it knows no values.")
        return self._critic(seen, action).min(axis=0)

    def gap(
        self, obs: Any, *, tol: float = 1e-2, time_limit: float | None = None, state_time_limit: float | None = 10.0
    ) -> Gap:
        """lower ≤ max_a q(s, a) − q(s, π(s)) ≤ upper for each observation of a batch [b, s], proven.

        q = min_j q_j, as `value` has it; the interval is as narrow as `tol` of the range of q where time allows, and
        holds in any case. `time_limit` is for all states, `state_time_limit` for each, in seconds.
        """
        batch, _ = self._batch(obs, self.obs_size, "observation")
        seen = np.asarray(self._normalize(batch), np.float32)
        if self.nets.critic is None:
            raise UserError(f"{self.algorithm.name}: this agent has no critic to compare its policy with.")
        limits = {"tol": tol, "time_limit": time_limit, "state_time_limit": state_time_limit}
        return amortization_gap(self.nets.critic, seen, self.act(batch), self.action_set, **limits)

    def value(self, obs: Any, action: Any) -> Float[np.ndarray, "b"] | np.float32:
        """min_j q_j(s, a): the critics' cautious estimate of the discounted return, for one pair or a batch."""
        batch, single = self._batch(obs, self.obs_size, "observation")
        actions, _ = self._batch(action, self.action_set.size, "action")
        if actions.shape[0] != batch.shape[0]:
            raise UserError(
                f"value: found {batch.shape[0]} observations and {actions.shape[0]} actions, expected as many."
            )
        q = self.critic_value(self._normalize(batch), actions)
        return q[0] if single else q

    def evaluate(
        self, env: EnvLike | AbstractJaxEnv, episodes: int = 10, seed: int = 0, **refinement: Any
    ) -> Float[np.ndarray, "episodes"]:
        """Undiscounted returns of π over fresh episodes; `refinement` is `act`'s (refine, trust, deadline)."""
        return np.array(list(self.episodes(env, episodes, seed, **refinement)))

    def episodes(
        self, env: EnvLike | AbstractJaxEnv, episodes: int, seed: int = 0, **refinement: Any
    ) -> Iterator[float]:
        """The returns of `evaluate`, one by one as they come."""
        if episodes < 1:
            raise UserError(f"episodes: found {episodes}, expected at least 1.")
        for rows in islice(self._episodes(env, episodes, seed, **refinement), episodes):
            yield float(sum(rows.reward.tolist()))

    def trajectory(self, env: EnvLike | AbstractJaxEnv, steps: int, seed: int = 0) -> Transition:
        """At least `steps` transitions of π, three whole episodes or more, one after another, in the environment's
        units."""
        return whole_episodes(self._episodes(env, max(3, steps), seed), steps)

    def _episodes(self, env: EnvLike | AbstractJaxEnv, most: int, seed: int, **refinement: Any) -> Iterator[Transition]:
        """Episodes one after another; of a JAX environment `most`, at once."""
        if isinstance(env, str) and env.startswith("jax/"):
            env = find_jax_env(env)
        if isinstance(env, AbstractJaxEnv):
            if refinement.get("refine"):
                raise UserError("refine: found a JAX environment, expected a Gymnasium one; evaluate there.")
            if env.obs_size != self.obs_size or env.action_set != self.action_set:
                raise UserError("environment: its observations or actions differ from those the agent was trained on.")
            policy, moments = jax.device_put((self.nets.policy, self.moments))
            yield from episodes_at_once(policy, moments, env, most, seed)
        else:
            yield from episodes(partial(self.act, **refinement), env, self.obs_size, self.action_set, seed)

    def as_seen(self, rows: Transition) -> Transition:
        """Transitions as the networks see them: normalized, where the agent normalizes."""
        obs, next_obs = (np.asarray(self._normalize(part), np.float32) for part in (rows.obs, rows.next_obs))
        return rows._replace(obs=obs, next_obs=next_obs)

    def measure(self, rows: Transition) -> dict[str, float]:
        """`Algorithm.measure` of this agent along consecutive transitions in the environment's units."""
        key = jax.random.key_data(jax.random.key(0))
        return self.algorithm.measure(jax.tree.map(jnp.asarray, self.nets), self.as_seen(rows), 1, key)[1]

    def save(self, path: str | Path) -> None:
        """A folder of tensors and a manifest, whole or not there."""
        arrays = to_arrays("nets", self.nets)
        if self.moments is not None:
            arrays |= to_arrays("moments", self.moments)
        agent = {
            "algorithm": self.algorithm.name,
            "settings": as_dict(self.algorithm),
            "obs_size": self.obs_size,
            "action_set": describe(self.action_set),
            "normalized": self.moments is not None,
            "env": self.env_id,
        }
        try:
            save_folder(Path(path), arrays, {"agent": agent})
        except OSError as error:
            raise UserError(f"agent folder {path} cannot be written ({error.strerror}); choose another path.") from None

    @staticmethod
    def load(
        path: str | Path, action_set: AbstractActionSet | None = None, features: AbstractFeatures | None = None
    ) -> Agent:
        """The agent of `save`; its networks are built from its settings, its environment is not.

        `action_set` is needed where its bounds are functions of the state, `features` where it was fitted with features
        of the user's: no file holds code.
        """
        arrays, manifest = load_folder(Path(path))
        try:
            saved = manifest["agent"]
            cls = algorithms.find(saved["algorithm"])
            (settings,) = split_settings(from_json(saved["settings"]), cls)
            code: dict[str, Any] = {} if features is None else {"features": features}
            algorithm = cls(**settings, **code)
            obs_size, action_set = int(saved["obs_size"]), described(_description(saved), action_set)
            normalized, env_id = bool(saved["normalized"]), saved["env"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: the manifest is no agent's ({error!r}).") from None
        shapes = jax.eval_shape(
            lambda: algorithm.networks(obs_size, action_set, jax.random.key_data(jax.random.key(0)))
        )
        like = algorithm.sized(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), arrays)
        moments = from_arrays("moments", RunningMoments.start(obs_size), arrays) if normalized else None
        return Agent(algorithm, obs_size, action_set, from_arrays("nets", like, arrays), moments, env_id)

    def _normalize(self, obs: Any) -> Any:
        return obs if self.moments is None else self.moments.normalize(obs)

    def _batch(self, value: Any, size: int, name: str) -> tuple[np.ndarray, bool]:
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise UserError(
                f"{name}: found {value!r}, expected numbers of shape ({size},) or (batch, {size})."
            ) from None
        if array.ndim not in (1, 2) or array.shape[-1] != size:
            raise UserError(f"{name}: found shape {array.shape}, expected ({size},) or (batch, {size}).")
        return np.atleast_2d(array), array.ndim == 1


def _description(saved: dict[str, Any]) -> Any:
    """The action set in an agent's manifest; before version 0.2 it was two lists, a box."""
    return saved.get("action_set") or {"kind": "box", "low": saved["action_low"], "high": saved["action_high"]}
