"""A stirred reactor is held where it is unstable, by gradients of the return through its own equations.

python examples/gallery/reactor.py
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fittedq
from fittedq.envs.native import AbstractPhysics
from fittedq.envs.process import runge_kutta

STEPS, SAMPLES, STARTS = 4_000, 60, [(0.9, 325.0), (0.2, 380.0), (0.7, 372.0), (0.35, 332.0), (0.5, 351.0)]


class Reactor(AbstractPhysics[Any]):
    """C' = 1 − C − k C,  T' = 350 − T + 209.2 k C + 2.092 (Tc − T),  k = 7.2e10 exp(−8750 / T), a minute each.

    A sample is .1 min. The coolant's Tc lies between 280 and 320 K; at 300 K the point C = .5, T = 350 is unstable.
    Source: Seborg, Edgar & Mellichamp, Process Dynamics and Control. Observed are (C − .5) / .5 and (T − 350) / 50.
    """

    obs_size, action_set, episode_length = 2, fittedq.Box((280.0,), (320.0,)), SAMPLES

    def begin(self, key):
        return jax.random.uniform(key, (2,), minval=jnp.array([0.1, 320.0]), maxval=jnp.array([0.9, 385.0]))

    def observe(self, inner):
        return (inner - jnp.array([0.5, 350.0])) / jnp.array([0.5, 50.0])

    def recall(self, obs):
        return obs * jnp.array([0.5, 50.0]) + jnp.array([0.5, 350.0])

    def transition(self, inner, action, key):
        def derivative(state):
            burnt = 7.2e10 * jnp.exp(-8750.0 / jnp.clip(state[1], 280.0, 450.0)) * state[0]
            warmed = 350.0 - state[1] + 209.2 * burnt + 2.092 * (action[0] - state[1])
            return jnp.stack([1.0 - state[0] - burnt, warmed])

        after, _ = jax.lax.scan(lambda state, _: (runge_kutta(derivative, state, 0.005, 1), None), inner, None, 20)
        return after, -jnp.sum(self.observe(after) ** 2), jnp.zeros((), bool)


def path(env: Reactor, act: Any, start: tuple[float, float]) -> list[list[float]]:
    """C and T from a start, under what acts on an observation."""
    step, state, seen = jax.jit(env.transition), jnp.array(start), []
    for _ in range(SAMPLES):
        seen.append(np.asarray(state).tolist())
        action = act(np.asarray(env.observe(state)))
        state = step(state, jnp.asarray(action, jnp.float32), jax.random.key(0))[0]
    return np.round(seen, 3).tolist()


def learned() -> dict[str, Any]:
    env = Reactor()
    through = {"dynamics": "env", "horizon": "3", "policy": "deterministic", "temperature": 0.0, "gamma": 0.97}
    fast = {"critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3, "batch_size": 128, "random_steps": 500}
    agent = fittedq.train("svg", env, steps=STEPS, seed=0, hidden=(64, 64), **through, **fast)
    free = [path(env, lambda obs: np.array([300.0]), start) for start in STARTS]
    held = [path(env, agent.act, start) for start in STARTS]
    off = [abs(run[-1][1] - 350.0) for run in held]
    return {
        "told": [
            f"{STEPS:,} samples; the last agent",
            f"from {len(STARTS)} starts it ends within {max(off):.2f} K of the unstable point",
            f"with the coolant at 300 K they end {min(abs(run[-1][1] - 350) for run in free):.0f} K off or more",
        ],
        "free": free,
        "held": held,
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    time = 0.1 * np.arange(SAMPLES)
    for name, color in (("free", "0.7"), ("held", "C0")):
        label = {"free": "coolant at 300 K", "held": "learned"}[name]
        for run in np.array(data[name]):
            left.plot(*run.T, color=color, label=label)
            left.plot(*run[0], "o", color=color, markersize=3)
            right.plot(time, run[:, 1], color=color)
            label = None
    left.plot(0.5, 350, "*", color="C1", markersize=12, label="unstable point")
    left.set(xlabel="concentration, mol/L", ylabel="temperature, K", title="where it goes")
    left.legend(loc="upper right")
    right.set(xlabel="time, min", title="temperature, K")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
