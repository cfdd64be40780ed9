"""What of an agent leaves Python, as a program, with the names of its numbers and observations such as it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fittedq.acting.familiar import Familiarity
from fittedq.actions.base import AbstractActionSet
from fittedq.control.state import AugmentedState
from fittedq.data.statistics import RunningMoments
from fittedq.envs.spaces import Spaces
from fittedq.errors import UserError, nearest
from fittedq.export.language import About
from fittedq.export.making import program_of
from fittedq.export.program import ControlProgram, GuardStage
from fittedq.export.solving import SPREAD_STARTS, Refining, solver_of
from fittedq.export.timing import ActsOnce
from fittedq.files import versions
from fittedq.maximize.local.refine import checked
from fittedq.settings import real
from fittedq.types import AbstractPolicy, Components


@final
@dataclass(frozen=True, eq=False)
class Exportable:
    """An agent's networks and what stands before and behind them, without what learns or plays."""

    algorithm: str
    env: str | None
    nets: Components
    moments: RunningMoments | None
    action_set: AbstractActionSet
    limits: AbstractActionSet
    """What reaches the plant lies in it."""
    obs_size: int
    """Of what the networks see."""
    memory: AugmentedState | None
    fallback: Float[np.ndarray, "m"]
    """Where there is no action."""
    holds: bool
    """Whether the action before is in its place."""
    fallback_in_words: str
    threshold: float
    """Where what it sees is less familiar, the fallback acts; 0: never."""
    spaces: Spaces
    familiarity: Familiarity | None
    columns: tuple[str, ...] = ()
    """What its log called the numbers."""

    def program(self, guard: GuardStage | None = None, refining: Refining | None = None) -> ControlProgram:
        """The controller in stages; a UserError names what no stage can say."""
        if self.nets.policy is None and refining is None:
            raise UserError(
                f"export: {self.algorithm} learns no policy but solves at each sample, by a search that ends when "
                "it has found enough. What is exported takes a fixed number of steps on the critic, from the best of "
                f"{SPREAD_STARTS} fixed starts: say how many, as --refine 8 (refine=8)."
            )
        solver = None if refining is None else solver_of(self.nets.critic, self.action_set, self.obs_size, refining)
        own = (self.moments, self.memory, self.fallback, self.spaces.observation.size)
        return program_of(self.nets.policy, self.action_set, *own, guard=guard, solver=solver, holds=self.holds)

    def refining(self, refine: int | None, trust: float | None) -> Refining | None:
        """How it solves: by default within a tenth of the half-widths of its policy, or in all of the box without."""
        usual = 0.1 if self.nets.policy is not None else 2.0
        steps = checked(refine, usual if trust is None else trust, None)
        if trust is not None and not steps:
            raise UserError(f"found {trust} and no steps (refine) that it limits; give both.", argument="trust")
        return Refining(steps, float(usual if trust is None else trust)) if steps else None

    def about(self, agent: str, names: Sequence[str] | None, units: Mapping[str, str], sample: float | None) -> About:
        """What a file says of it; `agent` is its digest."""
        raw = self.spaces.observation.size
        own = [*self.spaces.observation.names("observation"), *self.spaces.action.names("action")]
        told = own if names is None else [str(name) for name in names]
        if len(told) != len(own):
            raise UserError(
                f"found {len(told)}, expected {raw} of observations and then {len(own) - raw} of actions.",
                argument="names",
            )
        for name in units:
            if str(name) not in told:
                raise UserError(
                    f"found {name!r}, which is none of the names; {nearest(str(name), told)}", argument="units"
                )
        if sample is not None:
            sample = real(sample, "sample", "seconds above zero", 1e-9, 1e9)
        return About(
            algorithm=self.algorithm,
            env=self.env,
            agent=agent,
            versions=versions(),
            observations=tuple(told[:raw]),
            actions=tuple(told[raw:]),
            units={str(name): str(unit) for name, unit in units.items()},
            low=tuple(self.limits.low),
            high=tuple(self.limits.high),
            sample=sample or (None if self.memory is None else self.memory.augmentation.sample),
            fallback=self.fallback_in_words,
            threshold=self.threshold,
            columns=self.columns,
            learned_between=() if self.familiarity is None else _ends_of(self.known()),
        )

    def known(self) -> Float[np.ndarray, "N o"]:
        """Observations such as it has learned from, as far as it knows any: landmarks of its data, else by moments."""
        raw, rng = self.spaces.observation.size, np.random.default_rng(0)
        if self.familiarity is not None:
            return self.familiarity.place.rows[:, :raw]
        if self.moments is None:
            return rng.normal(size=(1000, raw)).astype(np.float32)
        mean, deviation = (np.asarray(part)[:raw] for part in (self.moments.mean, self.moments.deviation))
        return (mean + deviation * rng.normal(size=(1000, raw))).astype(np.float32)

    def compiled(self) -> ActsOnce:
        """The policy, compiled by JAX for one state."""
        policy, moments = jax.device_put((self.nets.policy, self.moments))

        @eqx.filter_jit
        def act(policy: AbstractPolicy, moments: RunningMoments | None, seen: Float[Array, "1 z"]) -> Array:
            normal = seen if moments is None else moments.normalize(seen)
            action = policy.act(normal, jnp.zeros((1, self.action_set.size)))
            return jnp.asarray(self.action_set.project(action, seen))

        def once(obs: Float[np.ndarray, "o"]) -> np.ndarray:
            seen = np.zeros((1, self.obs_size), np.float32)
            seen[0, : len(obs)] = obs
            return np.asarray(act(policy, moments, jnp.asarray(seen)))

        return once


def _ends_of(obs: Float[np.ndarray, "N o"]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(obs.min(axis=0).tolist(), obs.max(axis=0).tolist(), strict=True))
