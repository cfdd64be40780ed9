"""Exploration: what is added to the policy's action while data is collected.

Every process is a pure function of its state and of standard-normal draws, so it runs on the host (NumPy) and inside a
compiled loop (JAX), and its state can be saved.
"""

from __future__ import annotations

import abc
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Float

from fittedq.arrays import Arr, namespace
from fittedq.errors import UserError
from fittedq.slots import NOT_NEGATIVE, AbstractSlot


class AbstractExploration(AbstractSlot):
    """Noise scales with the half-width of the box: σ = 0.1 means a tenth of it in every dimension."""

    @abc.abstractmethod
    def step(self, state: Float[Arr, "b m"], normal: Float[Arr, "b m"]) -> tuple[Float[Arr, "b m"], Float[Arr, "b m"]]:
        """(next state, noise in unit-box coordinates). The state starts at zeros and returns there at each reset."""

    @property
    @abc.abstractmethod
    def samples_policy(self) -> bool:
        """Whether the policy's own distribution explores (its draws are then used) or its mode is perturbed."""


class OwnNoise(AbstractExploration):
    """a ~ π(· | s): a stochastic policy explores by itself."""

    def step(self, state: Float[Arr, "b m"], normal: Float[Arr, "b m"]) -> tuple[Float[Arr, "b m"], Float[Arr, "b m"]]:
        return state, namespace(normal).zeros_like(normal)

    @property
    def samples_policy(self) -> bool:
        return True


class Gaussian(AbstractExploration):
    """η_t = σ ε_t, ε_t ~ N(0, 1); σ is the standard deviation. Source: Fujimoto et al. 2018."""

    sigma: float = eqx.field(static=True, metadata=NOT_NEGATIVE)

    def step(self, state: Float[Arr, "b m"], normal: Float[Arr, "b m"]) -> tuple[Float[Arr, "b m"], Float[Arr, "b m"]]:
        return state, self.sigma * normal

    @property
    def samples_policy(self) -> bool:
        return False


class OrnsteinUhlenbeck(AbstractExploration):
    """η_{t+1} = η_t + θ (μ − η_t) Δt + σ √Δt ε_t (Euler–Maruyama), back to 0 at each episode's start.

    Stationary variance σ² / (θ (2 − θΔt)), autocorrelation (1 − θΔt)^k; stable only for 0 < θΔt < 2.
    Source: Lillicrap et al. 2015, section 7.
    """

    reversion: float = eqx.field(static=True, default=0.15)
    mean: float = eqx.field(static=True, default=0.0)
    sigma: float = eqx.field(static=True, default=0.2, metadata=NOT_NEGATIVE)
    dt: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        super().__check_init__()
        if not 0 < self.reversion * self.dt < 2:
            raise UserError(
                f"Ornstein–Uhlenbeck noise: reversion · dt is {self.reversion * self.dt:g}, expected a number between "
                "0 and 2 (outside, the process does not revert); lower noise_reversion or noise_dt."
            )

    def step(self, state: Float[Arr, "b m"], normal: Float[Arr, "b m"]) -> tuple[Float[Arr, "b m"], Float[Arr, "b m"]]:
        state = state + self.reversion * (self.mean - state) * self.dt + self.sigma * self.dt**0.5 * normal
        return state, state

    @property
    def samples_policy(self) -> bool:
        return False


@runtime_checkable
class Projects(Protocol):
    """An action set, or the host view of one."""

    @property
    def half_width(self) -> tuple[float, ...]: ...

    def project(self, action: Float[Arr, "b m"], obs: Float[Arr, "b s"]) -> Float[Arr, "b m"]:
        """As `AbstractActionSet.project`."""
        ...


def explore(
    action: Float[Arr, "b m"], noise: Float[Arr, "b m"], action_set: Projects, obs: Float[Arr, "b s"]
) -> Float[Arr, "b m"]:
    """Π_A(a + half_width · η): the action that is executed is the action that is stored."""
    half_width = namespace(action).asarray(action_set.half_width, action.dtype)
    return action_set.project(action + half_width * noise, obs)
