"""A boat crosses a river by a method that is in no registry: TD3 whose targets climb the critic by two steps first.

python examples/gallery/river.py
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fittedq
from fittedq import (
    FQI,
    TD3,
    Bellman,
    Composed,
    Descend,
    FirstCritic,
    Gaussian,
    Improve,
    MinOverCritics,
    Polyak,
    ProjectedAscent,
    Regress,
    Solved,
    Sync,
    Update,
)

STEPS, DOCK, SIDE = 20_000, (0.5, 0.95), np.linspace(0.0, 1.0, 21)
fit, follow = Descend(optax.adam(1e-3)), Polyak(0.01)
METHOD = Composed(
    fqi=FQI(
        greedy=Solved(ProjectedAscent(steps=2, learning_rate=0.1), random_starts=0),
        updates=(
            Update("critic", Regress(Bellman(0.97, MinOverCritics())), fit),
            Update("policy", Improve(FirstCritic()), fit, every=2),
        ),
        sync=Sync(critic=follow, policy=follow),
    ),
    networks=TD3(hidden=(64, 64)).networks,
    exploration=Gaussian(0.2),
)


def current(y: Any) -> Any:
    """Of the water, along x: fastest in the middle of the river."""
    return 0.06 * (1.0 - (2.0 * y - 1.0) ** 2)


class River(fittedq.AbstractJaxEnv[Any]):
    """(x, y) moves by .05 a and by the current, within [0, 1]²; it costs the distance to the dock, and ends there."""

    obs_size, action_set, episode_length = 2, fittedq.Box((-1.0, -1.0), (1.0, 1.0)), 60

    def begin(self, key):
        return jax.random.uniform(key, (2,))

    def observe(self, inner):
        return 2.0 * inner - 1.0

    def transition(self, inner, action, key):
        after = jnp.clip(inner + 0.05 * action + jnp.stack([current(inner[1]), 0.0]), 0.0, 1.0)
        off = jnp.linalg.norm(after - jnp.array(DOCK))
        return after, -off, off < 0.04


def crossed(agent: fittedq.Agent, start: tuple[float, float]) -> list[list[float]]:
    """Where the boat goes from there."""
    env, state, path = River(), jnp.array(start), []
    for _ in range(env.episode_length):
        path.append(np.asarray(state).tolist())
        action = agent.act(np.asarray(env.observe(state)))
        state, _, docked = env.transition(state, jnp.asarray(action), jax.random.key(0))
        if docked:
            break
    return np.round([*path, np.asarray(state).tolist()], 3).tolist()


def learned() -> dict[str, Any]:
    agent = fittedq.train(METHOD, River(), steps=STEPS, random_steps=min(1_000, STEPS // 2), seed=0)
    seen = np.stack(np.meshgrid(SIDE, SIDE), axis=-1).reshape(-1, 2)
    action = agent.act(2 * seen - 1)
    paths = [crossed(agent, (x, 0.03)) for x in (0.05, 0.3, 0.6, 0.95)]
    docked = fittedq.compare({"it": agent}, River(), episodes=40).episodes["it"]
    ends = sum(bool(episode.terminated[-1]) for episode in docked)
    return {
        "told": [f"{STEPS:,} steps; the last agent docks in {ends} of {len(docked)} crossings that begin anywhere"],
        "value": np.round(agent.value(2 * seen - 1, action), 2).tolist(),
        "action": np.round(action, 2).tolist(),
        "paths": paths,
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    grid = np.reshape(data["value"], (len(SIDE), len(SIDE)))
    image = left.contourf(SIDE, SIDE, grid, 20, cmap="viridis")
    figure.colorbar(image, ax=left)
    across = np.reshape(data["action"], (len(SIDE), len(SIDE), 2))
    left.quiver(SIDE[::2], SIDE[::2], *np.moveaxis(across[::2, ::2], -1, 0), color="white", scale=28, width=0.005)
    left.set(title="q of the best action, and where it steers", xlabel="x", ylabel="y")
    x, y = (side.ravel() for side in np.meshgrid(np.linspace(0.0, 0.85, 7), np.linspace(0.1, 0.9, 9)))
    right.quiver(x, y, current(y), 0 * y, color="#90cdf4", scale=0.6, width=0.004)
    for path in data["paths"]:
        right.plot(*np.array(path).T, color="C0")
        right.plot(*path[0], "o", color="C0", markersize=4)
    for axes in (left, right):
        axes.plot(*DOCK, "*", color="gold", markeredgecolor="black", markersize=13)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    right.set(title="crossings; the water flows to the right", xlabel="x")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
