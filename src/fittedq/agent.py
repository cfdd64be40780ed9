"""What training gives: an agent that acts, values, evaluates, and can be saved and loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fittedq import algorithms
from fittedq.action_sets import describe, described
from fittedq.algorithms.base import Algorithm
from fittedq.approx.host import host_view, to_host
from fittedq.data.statistics import RunningMoments
from fittedq.envs.gym import EnvLike
from fittedq.envs.native import AbstractJaxEnv, find_jax_env
from fittedq.errors import UserError
from fittedq.evaluate import episode_returns, returns_at_once
from fittedq.files import load_folder, save_folder
from fittedq.settings import from_json, split_settings
from fittedq.train import from_arrays, to_arrays
from fittedq.types import AbstractActionSet, Approximators


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
        self.algorithm, self.obs_size, self.action_set = algorithm, obs_size, action_set
        self.nets, self.moments = to_host(nets), None if moments is None else to_host(moments)
        self._policy, self._critic = algorithm.controller(self.nets), host_view(self.nets.critic)
        self.env_id = env_id
        """The id it was trained on, as text; nothing is ever built from a saved one unasked."""

    def act(self, obs: Any) -> Float[np.ndarray, "*b m"]:
        """π(s), the mode: for one observation [s] or a batch [b, s], inside the action set."""
        batch, single = self._batch(obs, self.obs_size, "observation")
        action = self._policy.act(self._normalize(batch), np.zeros((batch.shape[0], self.action_set.size), np.float32))
        action = np.asarray(self.action_set.project(action, batch))
        return action[0] if single else action

    def value(self, obs: Any, action: Any) -> Float[np.ndarray, "b"] | np.float32:
        """min_j q_j(s, a): the critics' cautious estimate of the discounted return, for one pair or a batch."""
        batch, single = self._batch(obs, self.obs_size, "observation")
        actions, _ = self._batch(action, self.action_set.size, "action")
        if actions.shape[0] != batch.shape[0]:
            raise UserError(
                f"value: found {batch.shape[0]} observations and {actions.shape[0]} actions, expected as many."
            )
        q = self._critic(self._normalize(batch), actions).min(axis=0)
        return q[0] if single else q

    def evaluate(
        self, env: EnvLike | AbstractJaxEnv, episodes: int = 10, seed: int = 0
    ) -> Float[np.ndarray, "episodes"]:
        """Undiscounted returns of π over fresh episodes."""
        return np.array(list(self.episodes(env, episodes, seed)))

    def episodes(self, env: EnvLike | AbstractJaxEnv, episodes: int, seed: int = 0) -> Iterator[float]:
        """The returns of `evaluate`, one by one as they come."""
        if episodes < 1:
            raise UserError(f"episodes: found {episodes}, expected at least 1.")
        if isinstance(env, str) and env.startswith("jax/"):
            env = find_jax_env(env)
        if isinstance(env, AbstractJaxEnv):
            if env.obs_size != self.obs_size or env.action_set != self.action_set:
                raise UserError("environment: its observations or actions differ from those the agent was trained on.")
            policy, moments = jax.device_put((self.nets.policy, self.moments))
            yield from returns_at_once(policy, moments, env, episodes, seed)
        else:
            yield from episode_returns(self.act, env, self.obs_size, self.action_set, episodes, seed)

    def save(self, path: str | Path) -> None:
        """A folder of tensors and a manifest, whole or not there."""
        arrays = to_arrays("nets", self.nets)
        if self.moments is not None:
            arrays |= to_arrays("moments", self.moments)
        agent = {
            "algorithm": self.algorithm.name,
            "settings": dataclasses.asdict(self.algorithm),
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
    def load(path: str | Path, action_set: AbstractActionSet | None = None) -> Agent:
        """The agent of `save`; its networks are built from its settings, its environment is not.

        `action_set` is needed where its bounds are functions of the state, which no file holds.
        """
        arrays, manifest = load_folder(Path(path))
        try:
            saved = manifest["agent"]
            cls = algorithms.find(saved["algorithm"])
            (settings,) = split_settings(from_json(saved["settings"]), cls)
            algorithm = cls(**settings)
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
