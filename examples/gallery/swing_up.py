"""A pendulum learns to swing up and to stand, from a log of random torques.

python examples/gallery/swing_up.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import fittedq
from fittedq.acting.collect import collect
from fittedq.data.dataset import Writer

ROWS, ITERATIONS = 20_000, 80
ANGLES, SPEEDS = np.linspace(-np.pi, np.pi, 73), np.linspace(-8.0, 8.0, 49)


def log(folder: Path) -> fittedq.Dataset:
    """Random torques; nobody swings anything up."""
    with Writer(folder) as writer:
        for _ in collect("jax/Pendulum-v1", ROWS, writer):
            pass
        return writer.finish()


def swung(agent: fittedq.Agent) -> list[list[float]]:
    """Angle and speed of an episode that begins hanging down."""
    env = gymnasium.make("Pendulum-v1")
    env.reset(seed=0)
    env.unwrapped.state, path = np.array([np.pi, 0.0]), []
    obs = np.array([-1.0, 0.0, 0.0])
    for _ in range(120):
        path.append([float(np.arctan2(obs[1], obs[0])), float(obs[2])])
        obs = env.step(agent.act(obs))[0]
    return np.round(path, 3).tolist()


def learned() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data = log(Path(folder) / "log")
        agent = fittedq.fit("nfqca", data, steps=ITERATIONS, hidden=(64, 64), keep="average", seed=0)
    angle, speed = (side.ravel() for side in np.meshgrid(ANGLES, SPEEDS))
    obs = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
    action = agent.act(obs)
    returns = agent.evaluate("jax/Pendulum-v1", episodes=20, seed=1)
    return {
        "told": [
            f"{ROWS:,} rows of random torques, {ITERATIONS} iterations; the last agent",
            f"mean return {returns.mean():.0f} over 20 episodes, {returns.min():.0f} at worst",
        ],
        "value": np.round(agent.value(obs, action), 1).tolist(),
        "action": np.round(action[:, 0], 2).tolist(),
        "path": swung(agent),
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    path = np.array(data["path"])
    path[1:][np.abs(np.diff(path[:, 0])) > 3] = np.nan  # where the angle jumps by 2π
    parts = {"max over actions of q": ("value", "viridis"), "torque of the policy, Nm": ("action", "coolwarm")}
    for axes, (title, (column, colors)) in zip(figure.subplots(1, 2, sharey=True), parts.items(), strict=True):
        grid = np.reshape(data[column], (len(SPEEDS), len(ANGLES)))
        image = axes.pcolormesh(ANGLES, SPEEDS, grid, cmap=colors, shading="gouraud", rasterized=True)
        axes.plot(*path.T, color="white", linewidth=2.5)
        axes.plot(*path.T, color="black", linewidth=1.0)
        axes.set(xlabel="angle, rad (0 is upright)", title=title, xlim=(-np.pi, np.pi), ylim=(-8, 8))
        figure.colorbar(image, ax=axes)
    figure.axes[0].set_ylabel("speed, rad/s")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
