"""A heater's log under a PI alone teaches a controller that runs away, as its check says; with steps, one that works.

python examples/gallery/heater.py
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fittedq
from fittedq.baselines import PID, Tracked
from fittedq.data.checks.lessons import checks_of

ROWS, ITERATIONS, STEPS = 3_000, 40, {"PI alone": 0.0, "PI and steps": 15.0}
SET_POINTS = np.repeat([50.0, 70.0, 40.0], 40)
PI = PID(4.0, 0.1, tracked=Tracked(0, setpoint=1), low=0.0, high=100.0, dt=5.0, bias=30.0)


class Heater(fittedq.AbstractJaxEnv[Any]):
    """T' = T + (.8 u − (T − 20)) / 20 + noise, one sample in 5 s; observed are T and its set-point, both in °C."""

    obs_size, action_set, episode_length = 2, fittedq.Box((0.0,), (100.0,)), 60

    def begin(self, key):
        return jax.random.uniform(key, (2,), minval=30.0, maxval=80.0)

    def observe(self, inner):
        return inner

    def transition(self, inner, action, key):
        after = inner[0] + (0.8 * action[0] - inner[0] + 20.0) / 20.0 + 0.05 * jax.random.normal(key)
        return jnp.stack([after, inner[1]]), -jnp.abs(after - inner[1]) / 10.0, jnp.zeros((), bool)


def log(steps: float, seed: int = 0) -> fittedq.Dataset:
    """Episodes under the PI, with steps of this height, held for some samples, on top of what it does."""
    rng, env, rows = np.random.default_rng(seed), Heater(), []
    step, keys = jax.jit(env.transition), jax.random.split(jax.random.key(seed), ROWS)
    for row, key in enumerate(keys):
        if row % env.episode_length == 0:
            state, loop = env.begin(key), PI.loop()
        if row % 4 == 0:
            extra = steps * rng.choice([-1.0, 1.0])
        action = np.clip(loop.act(np.asarray(state)) + extra, 0.0, 100.0)
        before, (state, reward, ended) = state, step(state, jnp.asarray(action), key)
        rows.append((before, action, reward, state, ended))
    obs, action, reward, next_obs, ended = (np.asarray(column, np.float32) for column in zip(*rows, strict=True))
    cut = (np.arange(ROWS) + 1) % env.episode_length == 0
    ends = {"terminated": ended > 0, "truncated": cut, "action_low": 0.0, "action_high": 100.0}
    return fittedq.Dataset.from_arrays(obs=obs, action=action, reward=reward, next_obs=next_obs, **ends)


def played(loop: Any) -> list[float]:
    """The temperature while set-points follow one another."""
    env, seen, temperature = Heater(), [], 30.0
    for sample, set_point in enumerate(SET_POINTS):
        state = jnp.array([temperature, set_point])
        seen.append(temperature)
        after = env.transition(state, jnp.asarray(loop.act(np.asarray(state))), jax.random.key(sample))[0]
        temperature = float(after[0])
    return np.round(seen, 2).tolist()


def learned() -> dict[str, Any]:
    told, check, runs = [], {}, {"the PI itself": played(PI.loop())}
    for name, steps in STEPS.items():
        data = log(steps)
        closed = checks_of(data)[0]
        same = {"steps": ITERATIONS, "gamma": 0.95, "hidden": (64, 64), "scale_rewards": True, "seed": 0}
        agent = fittedq.fit("nfqca", data, **same)
        earned = agent.evaluate(Heater(), episodes=20, seed=1).mean()
        told.append(f"log of {name}: {closed.verdict}, {closed.finding()}; what it taught earns {earned:.1f}")
        check[name] = np.round([closed.action[:400], closed.predicted[:400]], 2).tolist()
        runs[f"learned from {name}"] = played(agent.controller().loop())
    earned = PI.evaluate(Heater(), episodes=20, seed=1).mean()
    return {"told": [*told, f"the PI itself earns {earned:.1f}"], "check": check, "runs": runs}


def drawn(figure: Any, data: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    colors = {"PI alone": "C1", "PI and steps": "C0"}
    for name, (action, predicted) in reversed(data["check"].items()):
        left.plot(predicted, action, ".", markersize=3, color=colors[name], label=name)
    left.set(xlabel="action that the observation explains", ylabel="action in the log", title="can the log teach?")
    left.legend(loc="upper left")
    time = 5.0 * np.arange(len(SET_POINTS)) / 60
    right.step(time, SET_POINTS, where="post", color="0.4", linestyle="--", linewidth=1, label="set-point")
    for (name, run), color in zip(data["runs"].items(), ("0.6", "C1", "C0"), strict=True):
        right.plot(time, run, color=color, label=name)
    right.set(xlabel="time, min", ylabel="temperature, °C", title="what it taught")
    right.legend(loc="upper left", fontsize=7)


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
