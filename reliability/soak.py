"""One process trains, evaluates, checkpoints, fits, saves, loads, acts, refines and resumes for an hour; does it grow?

TD3 learns on Pendulum-v1 all the time, with evaluations, checkpoints and looks at the gap. Between its reports the
other things are done in turn. Every ten seconds resident memory, open descriptors, threads and the programs built so
far are written to `build/reliability/soak-samples.jsonl`. After the first sixth of the time, and once everything was
done,

- resident memory: the slope of a line through the samples, by least squares, with a 95 % interval from a bootstrap of
  its residuals in blocks of five minutes (they are correlated), must not lie above GROWTH;
- descriptors and threads must not exceed what they were then;
- the run that learns all the time must not build another program.

    .venv/bin/python reliability/soak.py [--minutes 60] [--duty 0.3]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from campaign import WORK, Outcome, campaign

PROMISE = "An hour of everything in one process: memory, descriptors, threads and compiled programs stay."
EVERY_S = 10.0
GROWTH = 60.0
"""MiB an hour that resident memory may grow."""
MIB = 2**20
SMALL = {"hidden": (16, 16), "batch_size": 32}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--duty", type=float, default=0.3, help="share of the time that it works; it sleeps the rest")
    parser.add_argument("--out", type=Path, help="result file; by default reliability/results/soak.json")
    flags = parser.parse_args()
    os.nice(10)
    samples_file = (flags.out or WORK / "soak.json").with_name("soak-samples.jsonl")
    samples_file.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="fittedq-soak-"))
    watch = Watch(samples_file)
    try:
        done = work(folder, watch, 60 * flags.minutes, flags.duty)
    finally:
        watch.stop()
        shutil.rmtree(folder, ignore_errors=True)
    samples = [json.loads(line) for line in samples_file.read_text().splitlines()]
    kinds = max(sample["kinds"] for sample in samples)
    settled = [one for one in samples if one["seconds"] >= 10 * flags.minutes and one["kinds"] == kinds]
    cases = {name: partial(judge, settled) for name, judge in JUDGES.items()}
    arguments = ["--afresh"] if flags.out is None else ["--afresh", "--out", str(flags.out)]
    figures = {
        "minutes": flags.minutes,
        "duty": flags.duty,
        "done": done,
        "memory": dict(zip(("slope_mib_per_hour", "low", "high"), slope(settled), strict=True)),
    }
    figures |= {
        "first": settled[0],
        "last": settled[-1],
        "samples": {name: [sample[name] for sample in samples] for name in samples[0]},
    }
    return campaign("soak", PROMISE, cases, arguments, **figures)


# ---------------------------------------------------------------------- what is done


def work(folder: Path, watch: Watch, seconds: float, duty: float) -> dict[str, int]:
    """Learn without end, do the rest in turn, until the time is over; how often each was done."""
    from fittedq.runs.run import Run
    from fittedq.runs.schedule import Schedule

    # The replay is full, and its memory touched, long before the first sixth is over.
    settings = {"hidden": (64, 64), "batch_size": 64, "replay_size": 10_000, "random_steps": 500}
    looks = {
        "report_every": 250,
        "eval_every": 5_000,
        "eval_episodes": 1,
        "checkpoint_every": 2_500,
        "gap_every": 2_500,
    }
    run = Run("td3", "Pendulum-v1", Schedule(steps=10**9, **looks), seed=1, settings=settings, folder=folder / "long")
    run.start()
    watch.learner = run.trainer
    others = itertools.cycle(interludes(folder).items())
    done: dict[str, int] = {"reports": 0}
    until = watch.start + seconds
    for _ in run.execute(stop=lambda: time.monotonic() > until):
        started = time.monotonic()
        done["reports"] += 1
        if done["reports"] % 4 == 0:
            name, other = next(others)
            other()
            done[name] = done.get(name, 0) + 1
        watch.done = dict(done)
        spent = time.monotonic() - started + 0.25
        time.sleep(max(0.0, min(spent * (1 / duty - 1), until - time.monotonic())))
    return done | {"steps": run.trainer.step}


def interludes(folder: Path) -> dict[str, Callable[[], None]]:
    """What a user does between two looks at a run, in one process."""
    import fittedq

    grown = fittedq.train("sac", "Pendulum-v1", steps=600, out=folder / "sac", random_steps=100, **SMALL)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(64, 3)).astype(np.float32)
    columns: dict[str, Any] = {"obs": rng.normal(size=(500, 3)), "action": rng.uniform(-2, 2, (500, 1))}
    columns |= {
        "reward": rng.normal(size=500),
        "next_obs": rng.normal(size=(500, 3)),
        "terminated": np.zeros(500, bool),
    }
    data = fittedq.Dataset.from_arrays(**columns, action_low=-2.0, action_high=2.0)
    numbers = itertools.count(700, 50)

    def save_and_load() -> None:
        grown.save(folder / "agent")
        np.testing.assert_array_equal(fittedq.load(folder / "agent").act(obs), grown.act(obs))

    def resume() -> None:
        fittedq.resume(folder / "sac", steps=next(numbers))

    def act() -> None:
        for one in obs:
            grown.act(one)
        grown.value(obs, grown.act(obs))

    return {
        "fit": lambda: _discard(fittedq.fit("nfqca", data, steps=2, hidden=(16, 16), minibatch=64, epochs=1)),
        "save and load": save_and_load,
        "act": act,
        "refine": lambda: _discard(grown.act(obs, refine=5)),
        "resume": resume,
        "evaluate": lambda: _discard(grown.evaluate("Pendulum-v1", 1)),
        "gap": lambda: _discard(grown.gap(obs[:4], time_limit=1.0)),
    }


def _discard(value: object) -> None:
    """Nothing is kept of it."""


# ---------------------------------------------------------------------- what is watched


class Watch:
    """A thread that writes a sample every ten seconds."""

    def __init__(self, path: Path):
        import jax

        self.learner: Any = None
        self.done: dict[str, int] = {}
        self._built = 0
        self.start, self._over = time.monotonic(), threading.Event()
        self._file = path.open("w")
        jax.monitoring.register_event_duration_secs_listener(self._count)
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._file.close()

    def _count(self, event: str, seconds: float, **more: Any) -> None:
        self._built += event.endswith("backend_compile_duration")

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._file.write(json.dumps(self.sample()) + "\n")
            self._file.flush()

    def sample(self) -> dict[str, Any]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "seconds": round(time.monotonic() - self.start, 1),
            "resident_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 2),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
            "programs_built": self._built,
            "programs_of_the_long_run": 0 if self.learner is None else self.learner.learner.compilations,
            "steps": 0 if self.learner is None else self.learner.step,
            "done": sum(self.done.values()),
            "kinds": len(self.done),
        }


# ---------------------------------------------------------------------- what is judged

Samples = list[dict[str, Any]]


def slope(samples: Samples, block_s: float = 300.0, draws: int = 2_000) -> tuple[float, float, float]:
    """(MiB an hour, its 95 % interval): least squares, residuals resampled in blocks."""
    hours = np.array([sample["seconds"] for sample in samples]) / 3600
    memory = np.array([sample["resident_mib"] for sample in samples])
    line = np.polynomial.Polynomial.fit(hours, memory, 1).convert().coef
    fitted = line[0] + line[1] * hours
    residuals, rng = memory - fitted, np.random.default_rng(0)
    length = max(1, min(int(block_s / EVERY_S), len(samples) // 4))
    centred = hours - hours.mean()
    slopes = []
    for _ in range(draws):
        starts = rng.integers(0, len(samples), -(-len(samples) // length))
        picked = np.concatenate([np.arange(start, start + length) for start in starts])[: len(samples)]
        resampled = fitted + residuals[picked % len(samples)]
        slopes.append(float(centred @ resampled / (centred @ centred)))
    low, high = np.quantile(slopes, (0.025, 0.975))
    return round(float(line[1]), 2), round(float(low), 2), round(float(high), 2)


def judge_memory(samples: Samples) -> Outcome:
    mean, low, high = slope(samples)
    words = f"{mean:+.1f} MiB an hour, between {low:+.1f} and {high:+.1f}; {GROWTH:g} are allowed"
    return Outcome("resident memory", low <= GROWTH, words if low > GROWTH else "", {"slope": words})


def judge_count(name: str, samples: Samples) -> Outcome:
    first, most = samples[0][name], max(sample[name] for sample in samples)
    # What is counted while something else is going on, such as a file being written, is not a leak.
    later = [sample[name] for sample in samples[len(samples) // 2 :]]
    grown = min(later) > first
    return Outcome(
        name, not grown, f"{first} grew to {min(later)} and more" if grown else "", {name: f"{first} … {most}"}
    )


JUDGES: dict[str, Callable[[Samples], Outcome]] = {
    "resident memory": judge_memory,
    "descriptors": partial(judge_count, "descriptors"),
    "threads": partial(judge_count, "threads"),
    "recompilations": partial(judge_count, "programs_of_the_long_run"),
}

if __name__ == "__main__":
    sys.exit(main())
