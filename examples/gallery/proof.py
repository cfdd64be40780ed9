"""The best action of a learned critic, with a proof; beside it, what climbs from single starts miss.

python examples/gallery/proof.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fittedq
from fittedq import CertifiedArgmax, ProjectedAscent

ROWS, EPOCHS, STATES, STARTS = 4_000, 150, 32, (1, 2, 4, 8, 16)
BOX = fittedq.Box((-1.0, -1.0), (1.0, 1.0))
SIDE = np.linspace(-1.0, 1.0, 61)


def reward(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Hills of many heights; the highest one moves with s."""
    x, y = action[:, 0], action[:, 1]
    hills = np.cos(5 * x) * np.cos(4 * y + 2 * obs[:, 0])
    return hills - 0.5 * (x - obs[:, 0]) ** 2 - 0.5 * (y + 0.3) ** 2


def log() -> fittedq.Dataset:
    """Random actions at random states; each is an episode of its own."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (ROWS, 1)), rng.uniform(-1, 1, (ROWS, 2))
    ends = np.ones(ROWS, bool)
    return fittedq.Dataset.from_arrays(
        obs=obs, action=action, reward=reward(obs, action), next_obs=obs, terminated=ends, action_low=-1, action_high=1
    )


def learned() -> dict[str, Any]:
    agent = fittedq.fit("explicit_fqi", log(), steps=1, epochs=EPOCHS, hidden=(64, 64), seed=0)
    critic, states = agent.nets.critic, np.linspace(-0.9, 0.9, STATES, dtype=np.float32)[:, None]
    proven = CertifiedArgmax(tol=1e-3)(critic, states, BOX)
    best, bound = np.asarray(proven.value), np.asarray(proven.upper_bound)
    starts = np.random.default_rng(1).uniform(-1, 1, (STATES, max(STARTS), 2)).astype(np.float32)
    climbed = [np.asarray(ProjectedAscent()(critic, states, BOX, starts[:, :k]).value) for k in STARTS]
    missed = {k: best - value for k, value in zip(STARTS, climbed, strict=True)}
    middle = np.repeat(states[STATES // 2 : STATES // 2 + 1], 25, axis=0)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.9, 0.9, 5)] * 2), axis=-1).reshape(25, 1, 2).astype(np.float32)
    ends = ProjectedAscent()(critic, middle, BOX, grid)
    x, y = (side.ravel() for side in np.meshgrid(SIDE, SIDE))
    told = [
        f"best of {k:2} climbs: misses more than .05 at {np.mean(lost > 0.05):.0%} of {STATES} states"
        for k, lost in missed.items()
    ]
    return {
        "told": [*told, f"the proof leaves {np.max(bound - best):.4f} open at most"],
        "q": np.round(agent.value(np.repeat(middle[:1], x.size, axis=0), np.stack([x, y], axis=1)), 3).tolist(),
        "starts": np.round(grid[:, 0], 3).tolist(),
        "ends": np.round(ends.action, 3).tolist(),
        "reached": np.round(ends.value, 3).tolist(),
        "best": [*np.round(proven.action[STATES // 2], 3).tolist(), float(best[STATES // 2])],
        "missed": [np.round(lost, 4).tolist() for lost in missed.values()],
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    image = left.contourf(SIDE, SIDE, np.reshape(data["q"], (len(SIDE),) * 2), 24, cmap="viridis")
    *best, value = data["best"]
    for start, end, reached in zip(data["starts"], data["ends"], data["reached"], strict=True):
        color = "white" if reached > value - 0.05 else "#ff8a80"
        left.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 0.9})
    left.plot(*best, "*", color="gold", markeredgecolor="black", markersize=15)
    left.set(xlabel="action 1", ylabel="action 2", title="climbs from 25 starts; the star is proven")
    figure.colorbar(image, ax=left, label="learned q")
    right.boxplot(data["missed"], tick_labels=[str(k) for k in STARTS], whis=(0, 100), medianprops={"color": "C1"})
    right.set(xlabel="climbs, the best of them taken", ylabel="missed of max q", title="what is missed, state by state")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
