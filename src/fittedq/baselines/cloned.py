"""A controller that imitates a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import jax
import numpy as np
import optax
from jaxtyping import Float

from fittedq.acting.episodes import AbstractController, check_spaces
from fittedq.actions.base import AbstractActionSet
from fittedq.approx.host import host_view
from fittedq.approx.networks import DeterministicPolicy
from fittedq.data.dataset import Dataset
from fittedq.data.statistics import RunningMoments
from fittedq.envs.flat import FlatEnv
from fittedq.template.fits import Budget, Descend, WholeFit
from fittedq.template.losses import Imitate, Imitated
from fittedq.types import Components, HostPolicy


@final
@dataclass(frozen=True)
class Cloned(AbstractController[None]):
    """a = π_w(s), w = argmin Σ_log ‖(π_w(s) − a) / half_width‖² (behaviour cloning)."""

    policy: HostPolicy
    """Of normalized observations."""
    moments: RunningMoments
    action_set: AbstractActionSet

    @staticmethod
    def of(
        dataset: Dataset,
        *,
        widths: Sequence[int] = (64, 64),
        epochs: int = 100,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> Cloned:
        """Fitted to the actions of the log in `epochs` passes at most; the pass with the least loss on a tenth of the
        rows, held out, is kept, and ten passes without a lower one end the fit."""
        moments = RunningMoments.start(dataset.obs_size)
        for part in dataset.chunks():
            moments = moments.update(dataset.transitions(part).obs)
        obs, action = moments.normalize(dataset.columns["obs"]), np.asarray(dataset.columns["action"])
        init_key, key = jax.random.split(jax.random.key(seed))
        policy = DeterministicPolicy(dataset.obs_size, dataset.action_set, tuple(widths), init_key)
        budget = Budget(epochs=epochs, minibatch=256, held_out=0.1, patience=10)
        fit = Descend(optax.adam(learning_rate), budget)
        rows = Imitated(np.asarray(obs), action, np.ones(len(dataset), np.float32))
        rng, nets = np.random.default_rng(seed), Components(policy=policy)
        start = WholeFit(policy, fit.init(policy), policy, nets, rows, rng, key, 1)
        *_, last = fit.over(Imitate())(start)
        return Cloned(host_view(last.component), moments, dataset.action_set)

    def __str__(self) -> str:
        return "the cloned policy"

    def start(self, number: int) -> None:
        del number

    def step(self, memory: None, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], None]:
        seen = np.asarray(self.moments.normalize(np.asarray(obs, np.float32)))
        action = self.policy.act(seen, np.zeros((len(obs), self.action_set.size), np.float32))
        return np.asarray(self.action_set.project(np.asarray(action), obs)), memory

    def check(self, env: FlatEnv) -> None:
        check_spaces(env, self.moments.mean.shape[0], self.action_set, str(self))
