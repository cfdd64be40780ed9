"""A car too weak for the hill swings back first, by trees that were fitted to random transitions.

python examples/gallery/car_on_the_hill.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fittedq

ROWS, ITERATIONS, TREES, GAMMA = 3_000, 30, 25, 0.95
PLACES, SPEEDS = np.linspace(-1, 1, 61), np.linspace(-3, 3, 61)


def step(obs: np.ndarray, force: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """.1 s of a car on a track of height p² + p (p < 0) or p / √(1 + 5 p²), and the reward: −1 off the left end or
    too fast, 1 on top. Source: Ernst, Geurts & Wehenkel 2005."""
    p, v = obs.T.copy()
    for _ in range(20):
        slope = np.where(p < 0, 2 * p + 1, (1 + 5 * p**2) ** -1.5)
        bend = np.where(p < 0, 2.0, -15 * p * (1 + 5 * p**2) ** -2.5)
        p, v = p + 0.005 * v, v + 0.005 * (force - 9.81 * slope - v**2 * slope * bend) / (1 + slope**2)
    lost, won = (p < -1) | (np.abs(v) > 3), (p > 1) & (np.abs(v) <= 3)
    return np.stack([p, v], axis=1), np.where(lost, -1.0, np.where(won, 1.0, 0.0)), lost | won


def log() -> fittedq.Dataset:
    """Random states and forces; each row is an episode of its own."""
    rng = np.random.default_rng(0)
    obs, force = rng.uniform([-1, -3], [1, 3], (ROWS, 2)), rng.uniform(-4, 4, (ROWS, 1))
    next_obs, reward, ended = step(obs, force[:, 0])
    rows = {"obs": obs, "action": force, "reward": reward, "next_obs": next_obs, "terminated": ended}
    return fittedq.Dataset.from_arrays(**rows, action_low=-4.0, action_high=4.0)


def learned() -> dict[str, Any]:
    agent = fittedq.fit(
        "explicit_fqi", log(), steps=ITERATIONS, approximator="extra_trees", n_trees=TREES, gamma=GAMMA, seed=0
    )
    obs, path = np.array([[-0.5, 0.0]]), []
    for _ in range(60):
        path.append(obs[0].tolist())
        obs, reward, ended = step(obs, agent.act(obs)[:, 0])
        if ended[0]:
            break
    seen = np.stack(np.meshgrid(PLACES, SPEEDS), axis=-1).reshape(-1, 2)
    force = agent.act(seen)
    end = "on top" if reward[0] > 0 else "not on top"
    return {
        "told": [
            f"{ROWS:,} random transitions, {ITERATIONS} iterations of {TREES} extra-trees; the last agent",
            f"from the bottom, at rest: {end} after {len(path)} samples ({0.1 * len(path):.1f} s)",
        ],
        "value": np.round(agent.value(seen, force), 3).tolist(),
        "force": np.round(force[:, 0], 2).tolist(),
        "path": np.round([*path, obs[0].tolist()], 3).tolist(),
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    parts = {"max over actions of q": ("value", "viridis"), "argmax: the force, N": ("force", "coolwarm")}
    for axes, (title, (column, colors)) in zip(figure.subplots(1, 2, sharey=True), parts.items(), strict=True):
        grid = np.reshape(data[column], (len(SPEEDS), len(PLACES)))
        image = axes.pcolormesh(PLACES, SPEEDS, grid, cmap=colors, shading="nearest", rasterized=True)
        axes.plot(*np.array(data["path"]).T, "o-", color="white", markersize=3, linewidth=2.2)
        axes.plot(*np.array(data["path"]).T, "o-", color="black", markersize=2, linewidth=0.9)
        axes.set(xlabel="place, m (the top is at 1)", title=title, xlim=(-1, 1), ylim=(-3, 3))
        figure.colorbar(image, ax=axes)
    figure.axes[0].set_ylabel("speed, m/s")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
