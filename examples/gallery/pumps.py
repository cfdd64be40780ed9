"""Two pumps share one motor: whatever the controller sees, together they never take more than it has.

python examples/gallery/pumps.py
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fittedq

STEPS, EPISODES, SET_POINTS = 20_000, 40, np.repeat([[1.0, 1.0], [1.6, 0.6], [0.6, 1.6]], 40, axis=0)
BUDGET = fittedq.Polytope((0.0, 0.0), (1.0, 1.0), [[1.0, 1.0]], [1.2])


class Pumps(fittedq.AbstractJaxEnv[Any]):
    """Level i' = level i + .2 u_i − .1 √level i; observed are both levels, and then both set-points."""

    obs_size, action_set, episode_length = 4, BUDGET, 60

    def begin(self, key):
        return jax.random.uniform(key, (4,), minval=0.3, maxval=2.0)

    def observe(self, inner):
        return inner

    def transition(self, inner, action, key):
        levels = inner[:2] + 0.2 * action - 0.1 * jnp.sqrt(jnp.maximum(inner[:2], 0.0))
        reward = 1.0 - jnp.mean(jnp.tanh(4.0 * (levels - inner[2:])) ** 2)
        return jnp.concatenate([levels, inner[2:]]), reward, jnp.zeros((), bool)


def learned() -> dict[str, Any]:
    env = Pumps()
    agent = fittedq.train("auto", env, preset="plant", error=("0:2", "1:3"), steps=STEPS, seed=0)
    rows, levels, loop = [], np.array([0.3, 0.3]), agent.controller().loop()
    for set_point in SET_POINTS:
        state = jnp.asarray(np.concatenate([levels, set_point]), jnp.float32)
        action = loop.act(np.asarray(state))
        rows.append([*levels.tolist(), *action.tolist()])
        levels = np.asarray(env.transition(state, jnp.asarray(action), jax.random.key(0))[0])[:2]
    found = fittedq.compare({"it": agent}, env, episodes=EPISODES)
    taken = np.concatenate([episode.action for episode in found.episodes["it"]])
    return {
        "told": [
            f"{STEPS:,} steps; the last agent earns {found.rows[0].mean.mean:.1f} of {env.episode_length} an episode",
            f"both pumps together: {taken.sum(axis=1).max():.4f} at most in {len(taken):,} samples, of 1.2",
            f"at the limit in {np.mean(taken.sum(axis=1) > 1.199):.0%} of them",
        ],
        "run": np.round(rows, 3).tolist(),
        "taken": np.round(taken, 3).tolist(),
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    run, time = np.array(data["run"]), np.arange(len(SET_POINTS))
    left.fill([0, 1, 1, 0.2, 0], [0, 0, 0.2, 1, 1], color="C2", alpha=0.15, label="allowed")
    left.plot(*np.array(data["taken"]).T, ".", markersize=2, color="C0", alpha=0.5, label="taken")
    left.set(xlabel="pump 1", ylabel="pump 2", title="2,400 samples", aspect="equal")
    left.legend(loc="lower left", markerscale=4)
    for place in (0, 1):
        right.step(time, SET_POINTS[:, place], where="post", color=f"C{place}", linestyle="--", linewidth=0.8)
        right.plot(time, run[:, place], color=f"C{place}", label=f"level {place + 1}")
    right.plot(time, run[:, 2:].sum(1), color="0.6", linewidth=1, label="both pumps")
    right.axhline(1.2, color="C2", linewidth=0.8, linestyle=":")
    right.set(xlabel="sample", title="levels, and what both pumps take", ylim=(0.1, 2.0))
    right.legend(ncols=3, loc="upper center")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
