"""Train a controller that swings a pendulum up and balances it, say how good it is, and write a page about it.

make demo
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import fittedq
from fittedq.runs.progress import console, shown
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule

GOOD = -200.0
"""A mean return above this swings up within a second or two and stays up."""


def folder() -> Path:
    """A run folder that is not there yet."""
    return next(path for number in range(10_000) if not (path := Path(f"runs/demo-{number}")).exists())


def main() -> int:
    schedule = Schedule(steps=6_000, eval_every=1_000, eval_episodes=5)
    run = Run(
        "sac",
        "Pendulum-v1",
        schedule,
        seed=0,
        settings={"critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3},
        folder=folder(),
    )
    assert run.folder is not None
    run.start()
    start = time.perf_counter()
    curve = []
    for report in shown(run.execute(), run, console()):
        if report.eval_returns is not None:
            curve.append((report.step, float(np.mean(report.eval_returns))))
    seconds = time.perf_counter() - start

    print("\nMean return of the policy while it learned:")
    worst = min(value for _, value in curve)
    for step, value in curve:
        print(f"  {step:>6,}  {value:>9.1f}  " + "█" * round(40 * (value - worst) / (1e-9 - worst)))
    returns = fittedq.load(run.folder.last).evaluate("Pendulum-v1", episodes=20, seed=1)
    print(f"\nOver 20 fresh episodes: mean return {returns.mean():.1f} (worst {returns.min():.1f}).")
    print(f"Trained in {seconds:.0f} s, evaluations included. Look again: .venv/bin/fittedq eval {run.folder.path}")
    page = run.folder.path / "report.html"
    fittedq.report(run.folder.path, page)
    print(f"Open {page}: how it learned, what it does, and whether to trust it.")
    if returns.mean() < GOOD:
        print(f"That is below {GOOD:g}: this run did not learn to balance.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
