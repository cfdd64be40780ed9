"""A method that is in no registry: TD3 whose greedy step is improved by two solver steps on the target critic.

a' = π̄(s'), then two steps of projected ascent on min_j q̄_j(s', ·) from there. Trained, saved, loaded in a new process
and resumed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

fit, follow = Descend(optax.adam(1e-3)), Polyak(0.005, every=2)
method = Composed(
    fqi=FQI(
        # From the target policy's action alone: no random starts.
        greedy=Solved(ProjectedAscent(steps=2, learning_rate=0.1), random_starts=0),
        updates=(
            Update("critic", Regress(Bellman(0.98, MinOverCritics())), fit),
            Update("policy", Improve(FirstCritic()), fit, every=2),
        ),
        sync=Sync(critic=follow, policy=follow),
    ),
    networks=TD3(hidden=(64, 64)).networks,
    exploration=Gaussian(0.1),
)
OBS = np.array([1.0, 0.0, 0.5])

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/your-own-method")
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 3_000
    if not folder.exists():
        agent = fittedq.train(method, "Pendulum-v1", steps=steps, out=folder, random_steps=min(1_000, steps // 2))
        print(f"trained {steps} steps; at {OBS} it acts {agent.act(OBS)}")
        subprocess.run([sys.executable, __file__, str(folder), str(steps)], check=True)
    else:
        # A process of its own: no file holds code, so the method is given again.
        print(f"loaded in a new process; at {OBS} it acts {fittedq.load(folder, code=method).act(OBS)}")
        agent = fittedq.resume(folder, steps=steps + 100, code=method)
        print(f"resumed to {steps + 100} steps; at {OBS} it acts {agent.act(OBS)}")
