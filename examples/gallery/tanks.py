"""Two tanks follow their set-point, beside a PID that was tuned on them and an LQR of their equations.

python examples/gallery/tanks.py
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fittedq
from fittedq.baselines import LQR, PID, LinearModel, Tracked
from fittedq.envs.process import TwoTanks

SEEDS, STEPS, EPISODES = (0, 1), 40_000, 20
SET_POINTS = np.repeat([8.0, 16.0, 12.0, 5.0, 18.0], 30)
GAINS = 5.206, 0.7266, 17.64  # what `tuned_pid` found in 120 tries: benchmarks/results/against_baselines.json
LEVEL = Tracked(1, setpoint=2, band=0.3, name="level")


def played(loop: Any, env: TwoTanks) -> list[list[float]]:
    """The lower level and the pump's voltage, sample by sample, while set-points follow one another."""
    step, state, rows = jax.jit(env.transition), jnp.array([5.0, 5.0, 0.0]), []
    for set_point in SET_POINTS:
        state = state.at[2].set(set_point)
        action = loop.act(np.asarray(state))
        rows.append([float(state[1]), float(action[0])])
        state = step(state, jnp.asarray(action), jax.random.key(0))[0]
    return np.round(rows, 3).tolist()


def learned() -> dict[str, Any]:
    env, same = TwoTanks(), {"preset": "plant", "error": ("1:2",), "steps": STEPS}
    agents = {f"seed {seed}": fittedq.train("auto", env, seed=seed, **same) for seed in SEEDS}
    beside = {
        "PID": PID(*GAINS, tracked=LEVEL, low=0.0, high=12.0, dt=env.dt, bias=6.0),
        "LQR": LQR.of(
            LinearModel.of_env(env, np.array([12.0, 12.0, 12.0]), np.array([8.3]), states=(0, 1)),
            [0.0, 1.0],
            [0.01],
            action_set=env.action_set,
            tracked=[LEVEL],
        ),
    }
    found = fittedq.compare({**agents, **beside}, env, episodes=EPISODES, tracked=[LEVEL], dt=env.dt)
    loops = {name: agent.controller().loop() for name, agent in agents.items()}
    loops |= {name: one.loop() for name, one in beside.items()}
    return {
        "told": [f"{row.name:7} mean return {row.mean.mean:.1f}" for row in found.rows],
        "played": {name: played(loop, env) for name, loop in loops.items()},
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    time, runs = 2.0 * np.arange(len(SET_POINTS)), {name: np.array(rows) for name, rows in data["played"].items()}
    ours = np.array([rows for name, rows in runs.items() if name.startswith("seed")])
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.fill_between(time, SET_POINTS - 0.3, SET_POINTS + 0.3, step="post", color="0.88", linewidth=0)
    above.step(time, SET_POINTS, where="post", color="0.4", linestyle="--", linewidth=1, label="set-point")
    for column, axes in enumerate((above, below)):
        axes.plot(time, runs["PID"][:, column], color="C1", linewidth=1.2, label="tuned PID")
        axes.fill_between(time, ours[..., column].min(0), ours[..., column].max(0), color="C0", alpha=0.35, linewidth=0)
        axes.plot(time, ours[..., column].mean(0), color="C0", label="fittedq, two seeds")
    above.set(ylabel="lower level, cm")
    above.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, 1.2))
    below.set(xlabel="time, s", ylabel="pump, V")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
