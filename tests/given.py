"""A program, and no test: what the public functions do with arguments of the wrong kind.

With --annotations the suite checks them at every call and would stop such arguments itself; users have no such check.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule

SMALL = {"hidden": (8, 8), "gamma": np.float32(0.5), "batch_size": np.int64(4), "replay_size": 100}
OBS = [1.0, 0.0, 0.0]


def refused(pattern: str, use: Callable[..., Any], *values: Any) -> None:
    for value in values:
        try:
            use(value)
        except UserError as error:
            if not re.match(pattern, str(error)):
                raise AssertionError(f"{value!r}: {pattern!r} is not in {error}") from error
        else:
            raise AssertionError(f"{pattern}: {value!r} was accepted")


def train(**given: Any) -> Any:
    return fittedq.train(given.pop("algorithm", "td3"), "Pendulum-v1", **{"steps": 1} | SMALL | given)


def main(folder: Path) -> None:
    run = Run("td3", "Pendulum-v1", Schedule(steps=np.int64(3)), seed=np.uint8(2), settings=SMALL)  # type: ignore[arg-type]
    agent: Any = run.agent()
    run.close()
    assert run.schedule.steps == 3 and agent.algorithm.gamma == 0.5
    assert agent.evaluate("Pendulum-v1", np.int32(1), np.int64(3)) == agent.evaluate("Pendulum-v1", 1, 3)

    # A trajectory of NaN steps played on for ever.
    numbers = (np.nan, -1, 0, 2.5, True, "3", Path("3"), [3])
    refused("steps: found .* of at least 1", lambda value: train(steps=value), None, *numbers)
    refused("steps: found .* of at least 1", lambda value: agent.trajectory("Pendulum-v1", value), None, *numbers)
    refused("episodes: found .* of at least 1", lambda value: agent.evaluate("Pendulum-v1", value), None, *numbers)
    seeds = (None, -1, 2**32, 10**30, 1.0, "x", True)
    refused("seed: found .* between 0 and 4294967295", lambda value: train(seed=value), *seeds)
    refused("seed: found .* between 0 and", lambda value: agent.evaluate("Pendulum-v1", 1, value), *seeds)

    refused("preset: found", lambda value: train(preset=value), 3, ["redq"], "x")

    names = (3, np.nan, ["a"], b"a", "a\0b", "\ud800")
    refused("out: found .* name of a file", lambda value: train(out=value), *names)
    for use in (fittedq.load, agent.save, Dataset.open, fittedq.resume):
        refused("(path|folder): found .* name of a file", use, None, *names)

    kinds = (3, 1.5, [], np.zeros(3))
    refused("data: found", lambda value: train(data=value), *kinds)
    refused("dataset: found", lambda value: fittedq.fit("td3", value), None, *kinds)
    refused("x is not a dataset folder", lambda value: fittedq.fit("td3", value), "x", Path("x"))
    refused("action_set: found", lambda value: train(action_set=value), "x", *kinds)
    refused("algorithm", lambda value: train(algorithm=value), None, "x", *kinds)
    refused("env: found", lambda value: train(eval_env=value), *kinds)
    refused("stop_when: found", lambda value: train(stop_when=value), *kinds)
    refused(
        "origin: found", lambda value: agent.save(folder / "agent", origin=value), 3, "x", {"a": np.nan}, {"a": {1}}
    )
    assert not list(folder.iterdir())
    agent.save(folder / "agent")
    refused("action_set: found", lambda value: fittedq.load(folder / "agent", code={"action_set": value}), "x", *kinds)

    refused("refine: found", lambda value: agent.act(OBS, refine=value), -1, "3", 1.5, np.nan)
    refused("refine: found", lambda value: agent.evaluate("Pendulum-v1", 1, refine=value), -1, "3", 1.5, np.nan)
    refused("trust: found", lambda value: agent.act(OBS, refine=2, trust=value), None, "1", np.nan, 0, -1, 3)
    refused("deadline: found", lambda value: agent.act(OBS, refine=2, deadline=value), "1", np.nan, -1)
    refused("gap: found no observations", agent.gap, np.zeros((0, 3)))
    for name in ("tol", "time_limit", "state_time_limit"):
        refused(f"{name}: found", lambda value, name=name: agent.gap([OBS], **{name: value}), "1", np.nan, -1.0, True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
