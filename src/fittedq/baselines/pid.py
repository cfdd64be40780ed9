"""The PID controller, one loop of it or several."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from fittedq.acting.episodes import AbstractController
from fittedq.diagnose.control import Tracked
from fittedq.envs.flat import FlatEnv
from fittedq.errors import UserError


class PIDMemory(NamedTuple):
    """What a PID controller knows of b episodes."""

    integral: Float[np.ndarray, "b"]
    derivative: Float[np.ndarray, "b"]
    measured: Float[np.ndarray, "b"]
    """The last measured value; NaN before the first."""


@final
@dataclass(frozen=True)
class PID(AbstractController[PIDMemory]):
    """u_k = sat(v_k), v_k = bias + kp (b r_k − y_k) + i_k + d_k, e_k = r_k − y_k, with

        i_k = i_{k−1} + ki Δt e_k
        d_k = (T_f d_{k−1} − kd (y_k − y_{k−1})) / (T_f + Δt),  d_0 = 0.

    The derivative is that of the measured value, so that a step of the set-point gives no kick, and is filtered with
    T_f = `filter_time` (by default kd / (10 |kp|)); b is `setpoint_weight`. Where v_k lies outside [low, high], i_k
    keeps i_{k−1} as long as e_k pushes v_k further out (clamping). With a `tracking_time` T_t it is led back instead:
    i_k += Δt / T_t (u_k − v_k) (back-calculation).

    `dt` is the sample time in seconds. kp is in units of the action per unit of the measured value, ki in the same per
    second, kd times seconds; all negative where more action lowers the measured value.
    Source: Åström & Hägglund 2006, "Advanced PID Control", sections 3.3 to 3.5 and 13.4.
    """

    kp: float
    ki: float = 0.0
    kd: float = 0.0
    _: dataclasses.KW_ONLY
    tracked: Tracked
    low: float
    high: float
    dt: float = 1.0
    bias: float = 0.0
    setpoint_weight: float = 1.0
    filter_time: float | None = None
    tracking_time: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float | int) and not math.isfinite(value):
                raise UserError(f"PID: found {field.name} {value}, expected a finite number.")
        if not self.low < self.high:
            raise UserError(f"PID: found limits {self.low:g} and {self.high:g}, expected low < high.")
        for name in ("dt", "filter_time", "tracking_time"):
            value = getattr(self, name)
            if value is not None and not (value > 0 or (name == "filter_time" and value == 0)):
                raise UserError(f"PID: found {name} {value:g}, expected a number of seconds above 0.")

    def __str__(self) -> str:
        return f"PID(kp={self.kp:.4g}, ki={self.ki:.4g}, kd={self.kd:.4g})"

    @property
    def filtering(self) -> float:
        if self.filter_time is not None:
            return self.filter_time
        return abs(self.kd / (10 * self.kp)) if self.kp else 0.0

    def start(self, number: int) -> PIDMemory:
        return PIDMemory(np.zeros(number), np.zeros(number), np.full(number, np.nan))

    def step(self, memory: PIDMemory, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b 1"], PIDMemory]:
        y, r = self.tracked.signals(obs)
        change = y - np.where(np.isnan(memory.measured), y, memory.measured)
        derivative = (self.filtering * memory.derivative - self.kd * change) / (self.filtering + self.dt)
        integral = memory.integral + self.ki * self.dt * (r - y)
        wanted = self.bias + self.kp * (self.setpoint_weight * r - y) + integral + derivative
        u = np.clip(wanted, self.low, self.high)
        if self.tracking_time is None:
            pushes = (wanted - u) * self.ki * (r - y) > 0
            integral = np.where(pushes, memory.integral, integral)
        else:
            integral = integral + self.dt / self.tracking_time * (u - wanted)
        return u[:, None], PIDMemory(integral, derivative, y)

    def check(self, env: FlatEnv) -> None:
        self.tracked.check(env.spaces.observation.size)
        if env.box.size != 1:
            raise UserError(
                f"{self} gives one number, and the environment takes {env.box.size} actions; give `Loops` one PID for "
                "each."
            )


@final
@dataclass(frozen=True)
class Loops(AbstractController[tuple[PIDMemory, ...]]):
    """a = hold, but a_j = u of the loop that drives j: single loops beside one another.

    `loops` are PID controllers by the action that each drives; `hold` (m numbers) is what the other actions are.
    """

    loops: dict[int, PID]
    hold: tuple[float, ...]

    def __post_init__(self) -> None:
        size = len(self.hold)
        wrong = [action for action in self.loops if not 0 <= action < size]
        if wrong or not self.loops:
            raise UserError(
                f"Loops: found loops for actions {sorted(self.loops)} and {size} numbers in `hold`; expected at least "
                f"one loop, and actions 0 … {size - 1}."
            )

    def __str__(self) -> str:
        return f"Loops({', '.join(f'{action}: {loop}' for action, loop in self.loops.items())})"

    def start(self, number: int) -> tuple[PIDMemory, ...]:
        return tuple(loop.start(number) for loop in self.loops.values())

    def step(
        self, memory: tuple[PIDMemory, ...], obs: Float[np.ndarray, "b s"]
    ) -> tuple[Float[np.ndarray, "b m"], tuple[PIDMemory, ...]]:
        action, after = np.tile(np.asarray(self.hold, np.float64), (len(obs), 1)), []
        for (driven, loop), known in zip(self.loops.items(), memory, strict=True):
            u, known = loop.step(known, obs)
            action[:, driven] = u[:, 0]
            after.append(known)
        return action, tuple(after)

    def check(self, env: FlatEnv) -> None:
        for loop in self.loops.values():
            loop.tracked.check(env.spaces.observation.size)
        if env.box.size != len(self.hold):
            raise UserError(f"{self} gives {len(self.hold)} numbers, and the environment takes {env.box.size} actions.")
