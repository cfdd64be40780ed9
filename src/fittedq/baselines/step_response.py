"""PID gains from a step response: what it tells of a plant with a lag and a delay, and the rules that use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from fittedq.diagnose.control import Tracked
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.errors import UserError


class PIDGains(NamedTuple):
    """kp, ki and kd of the parallel form, as `PID` takes them."""

    kp: float
    ki: float
    kd: float

    @staticmethod
    def of_times(kp: float, integral_time: float, derivative_time: float = 0.0) -> PIDGains:
        """ki = kp / T_i, kd = kp T_d."""
        return PIDGains(kp, kp / integral_time, kp * derivative_time)


@final
@dataclass(frozen=True)
class FirstOrderDelay:
    """G(s) = k e^(−θs) / (τs + 1): `gain` k in the measured unit per unit of action, τ and θ in seconds."""

    gain: float
    time_constant: float
    delay: float

    @staticmethod
    def of_step(
        time: Float[np.ndarray, "t"], measured: Float[np.ndarray, "t"], before: float, change: float
    ) -> FirstOrderDelay:
        """k = Δy / Δu, τ = 1.5 (t₆₃ − t₂₈), θ = t₆₃ − τ, t₂₈ and t₆₃ when 28.3 % and 63.2 % of Δy are reached.

        `measured` follows a step of the action by `change` at time 0, from rest at `before` to rest again.
        Source: Smith 1972; Smith & Corripio 1985, "Principles and Practice of Automatic Process Control".
        """
        risen = float(measured[-1]) - before
        moved = np.abs(np.asarray(measured, np.float64) - before)
        late = abs(float(measured[-1]) - float(measured[-max(2, len(measured) // 10)]))
        if not np.isfinite(moved).all() or not moved.max() > 0 or late > 0.05 * abs(risen):
            raise UserError(
                f"step response: after a step of the action by {change:g} the measured value went from {before:.4g} to "
                f"{float(measured[-1]):.4g} and has not come to rest; give it more samples, or gains of your own where "
                "the plant has no rest."
            )
        share = (np.asarray(measured, np.float64) - before) / risen
        early, later = (_crossing(time, share, level) for level in (0.283, 0.632))
        time_constant = 1.5 * (later - early)
        if not time_constant > 0:
            time_constant = float(time[1] - time[0]) / 2  # as fast as a sample, or faster
        return FirstOrderDelay(float(risen / change), time_constant, max(0.0, later - time_constant))

    def sampled(self, dt: float) -> FirstOrderDelay:
        """With the delay that sampling adds, dt / 2. Source: Skogestad 2003, section 2.4."""
        return FirstOrderDelay(self.gain, self.time_constant, self.delay + dt / 2)

    def simc(self, closed: float | None = None) -> PIDGains:
        """kp = τ / (k (τ_c + θ)), T_i = min(τ, 4 (τ_c + θ)): a PI controller for the closed-loop time constant τ_c.

        `closed` is τ_c in seconds, by default θ: as fast as is robust. Source: Skogestad 2003, "Simple analytic rules
        for model reduction and PID controller tuning", equations 23 and 24.
        """
        slow = (self.delay if closed is None else closed) + self.delay
        self._refuse_zero(slow)
        return PIDGains.of_times(self.time_constant / (self.gain * slow), min(self.time_constant, 4 * slow))

    def cohen_coon(self, derivative: bool = True) -> PIDGains:
        """With ρ = θ/τ, PID: kp = (4/3 + ρ/4) / (kρ), T_i = θ (32 + 6ρ) / (13 + 8ρ), T_d = 4θ / (11 + 2ρ).

        Without `derivative`, PI: kp = (.9 + ρ/12) / (kρ), T_i = θ (30 + 3ρ) / (9 + 20ρ). A quarter of each
        oscillation remains in the next. Source: Cohen & Coon 1953, "Theoretical consideration of retarded control".
        """
        self._refuse_zero(self.delay)
        ratio = self.delay / self.time_constant
        if not derivative:
            integral = self.delay * (30 + 3 * ratio) / (9 + 20 * ratio)
            return PIDGains.of_times((0.9 + ratio / 12) / (self.gain * ratio), integral)
        integral = self.delay * (32 + 6 * ratio) / (13 + 8 * ratio)
        kp = (4 / 3 + ratio / 4) / (self.gain * ratio)
        return PIDGains.of_times(kp, integral, 4 * self.delay / (11 + 2 * ratio))

    def _refuse_zero(self, seconds: float) -> None:
        if not seconds > 0:
            raise UserError(
                "tuning rule: found no delay, for which no gain is too high; use `sampled(dt)`, or SIMC with a "
                "closed-loop time constant of your own."
            )


def _crossing(time: Float[np.ndarray, "t"], share: Float[np.ndarray, "t"], level: float) -> float:
    """When the share first reaches the level, between two samples along a line."""
    after = int(np.argmax(share >= level))
    if after == 0:
        return float(time[0])
    ahead = (level - share[after - 1]) / (share[after] - share[after - 1])
    return float(time[after - 1] + ahead * (time[after] - time[after - 1]))


def step_response(
    env: AnyEnv | AbstractPlant,
    tracked: Tracked,
    *,
    before: Float[np.ndarray, "m"],
    after: Float[np.ndarray, "m"],
    rest: int,
    samples: int,
    dt: float = 1.0,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"], float]:
    """(t, y(t), y before): the action is `before` for `rest` samples, then `after` for `samples`, in one episode.

    `dt` is the sample time in seconds; t = 0 is when the action changes.
    """
    made = resolve(env).make()
    try:
        tracked.check(made.spaces.observation.size)
        obs = made.reset(seed=seed)[0]
        measured = [float(tracked.signals(obs)[0])]
        for sample in range(rest + samples):
            obs, _, terminated, truncated, _ = made.step(before if sample < rest else after)
            measured.append(float(tracked.signals(obs)[0]))
            if (terminated or truncated) and sample < rest + samples - 1:
                raise UserError(
                    f"step response in {made.label}: the episode ended after {sample + 1} of {rest + samples} samples; "
                    "ask for fewer, or give gains of your own where constant actions do not keep the plant running."
                )
    finally:
        made.close()
    y = np.asarray(measured[rest:])
    return dt * np.arange(len(y)), y, y[0]
