"""A pendulum controller from a log file: 20 000 transitions of random torques, no environment stepped to learn."""

from pathlib import Path

import numpy as np

import fittedq
from fittedq.acting.collect import collect
from fittedq.data.dataset import Writer

path = Path("runs/pendulum-log")
if not path.exists():
    path.parent.mkdir(exist_ok=True)
    with Writer(path) as writer:
        for _ in collect("Pendulum-v1", 20_000, writer):
            pass
        writer.finish()

data = fittedq.Dataset.open(path)
agent = fittedq.fit("nfqca", data, eval_env="Pendulum-v1", progress=True)
returns = agent.evaluate("Pendulum-v1", episodes=20)
print(f"mean return {np.mean(returns):.0f} over 20 fresh episodes, from {len(data):,} logged transitions")
