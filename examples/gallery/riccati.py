"""On a linear plant, fitted Q-iteration takes the steps of the Riccati equation, number by number.

python examples/gallery/riccati.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fittedq

ROWS, ITERATIONS, GAMMA = 200, 8, 0.9
STATES = np.linspace(-1.0, 1.0, 21)[:, None]


def log() -> fittedq.Dataset:
    """s' = s + a, r = −s² − a², at random states and actions."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (ROWS, 1)), rng.uniform(-1, 1, (ROWS, 1))
    rows = {"obs": obs, "action": action, "reward": -((obs**2 + action**2)[:, 0]), "next_obs": obs + action}
    return fittedq.Dataset.from_arrays(**rows, terminated=np.zeros(ROWS, bool), action_low=-5, action_high=5)


def riccati(p: float) -> float:
    """P_{n+1} = 1 + γ P − (γ P)² / (1 + γ P), for A = B = Q = R = 1."""
    return 1 + GAMMA * p - (GAMMA * p) ** 2 / (1 + GAMMA * p)


def learned() -> dict[str, Any]:
    exact, found, policies = [0.0], [], []
    quadratic = {"approximator": "polynomial", "ridge": 0.0, "gamma": GAMMA}
    for report in fittedq.stream("explicit_fqi", data=log(), steps=ITERATIONS, report_every=1, **quadratic):
        if report.step != len(found) + 1:
            continue
        one, agent = np.ones((1, 1)), report.agent
        found.append(-float(agent.value(one, agent.act(one))[0]))
        exact.append(riccati(exact[-1]))
        policies.append(np.round(agent.act(STATES)[:, 0], 4).tolist())
    off = max(abs(a - b) for a, b in zip(found, exact[1:], strict=True))
    return {
        "told": [
            "P by fitted Q-iteration  " + "  ".join(f"{p:.4f}" for p in found),
            "P by Riccati's equation  " + "  ".join(f"{p:.4f}" for p in exact[1:]),
            f"they differ by {off:.0e} at most",
        ],
        "found": found,
        "exact": exact[1:],
        "policies": policies,
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    count = np.arange(1, len(data["found"]) + 1)
    left.plot(count, data["exact"], "o", color="C1", markersize=9, markerfacecolor="none", label="Riccati's equation")
    left.plot(count, data["found"], "o-", color="C0", markersize=3, label="fitted Q-iteration")
    left.set(xlabel="iteration n", title="P, where max q(s, ·) = −P s²")
    left.legend(loc="lower right")
    colors = ["#bee3f8", "#63b3ed", "#3182ce", "#2a4365"]
    for place, color in zip((0, 1, 2, len(count) - 1), colors, strict=True):
        right.plot(STATES[:, 0], data["policies"][place], color=color, label=f"n = {place + 1}")
    right.plot(STATES[:, 0], -0.588403 * STATES[:, 0], ":", color="C1", linewidth=2.5, label="the LQR's, −.588 s")
    right.set(xlabel="state", title="argmax of q")
    right.legend(loc="upper right")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
