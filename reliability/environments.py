"""Runs in bad environments: each ends in one sentence that names the environment and the step, and loses nothing.

    python reliability/environments.py [--count N] [--minutes M]

A case is a fault, when it comes, and how the environment is run: trained in (one, several in this process, several in
processes of their own), trained in with evaluation, or collected from. Each is a process with a time limit.

Lost is a traceback, a hang, a fault that nobody told of, an exit code other than 2, a sentence without the step, rows
that were collected and are gone, and a run that cannot be resumed once the environment is right. A fault that ends the
process it is in (os._exit, a segmentation fault) cannot be told of there: it has to leave the last checkpoint, from
which the run goes on, and all rows but the last hundred, of which the same command makes a dataset.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import children
from campaign import Outcome, Trial, campaign

PROMISE = "A bad environment is one sentence with its step; what was learned before is kept."
ENV_TIMEOUT = 20

PLANT = '''
import ctypes, os, sys, time
from typing import Any
import gymnasium
import numpy as np

class Plant(gymnasium.Env):
    """Right, save for `fault` in step `at` of its life."""
    observation_space = gymnasium.spaces.Dict(
        speed=gymnasium.spaces.Box(-9, 9, (2,), np.float32), gear=gymnasium.spaces.Discrete(3))
    action_space = gymnasium.spaces.Box(-1, 1, (2, 1), np.float64)

    def __init__(self, fault: str = "none", at: int = 0):
        self.fault, self.at, self.lived, self.time = os.environ.get("FAULT", fault), at, 0, 0
        if self.at == 0:
            self.strike("made")

    def obs(self) -> Any:
        return {"speed": np.full(2, self.time, np.float32), "gear": self.time % 3}

    def strike(self, when: str) -> Any:
        match self.fault:
            case "raise": raise ZeroDivisionError("no current")
            case "raise without words": raise ValueError
            case "raise a long one": raise RuntimeError("x" * 5000 + "\\n" * 9)
            case "raise what cannot be pickled":
                class Local(Exception):
                    def __init__(self, a: Any, b: Any): super().__init__(lambda: a)
                raise Local(1, 2)
            case "stop iteration": raise StopIteration
            case "keyboard": raise SystemError("interrupted")
            case "sys.exit": sys.exit(0)
            case "os._exit": os._exit(0)
            case "segfault": ctypes.string_at(0)
            case "killed": os.kill(os.getpid(), 9)
            case "hang": time.sleep(10**6)
        return None

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.obs(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.time, self.lived = self.time + 1, self.lived + 1
        answer = [self.obs(), float(-np.sum(action) ** 2), False, self.time == 20, {}]
        if self.lived == self.at:
            self.strike("step")
            match self.fault:
                case "nan": answer[0]["speed"][1] = np.nan
                case "inf": answer[0]["speed"][0] = -np.inf
                case "nan reward": answer[1] = np.nan
                case "wrong shape": answer[0]["speed"] = np.zeros(3, np.float32)
                case "broadcast shape": answer[0]["speed"] = np.zeros(1, np.float32)
                case "missing key": del answer[0]["gear"]
                case "wrong choice": answer[0]["gear"] = 7
                case "words": answer[0]["speed"] = np.array(["a", "b"])
                case "objects": answer[0]["speed"] = np.array([None, 1.0])
                case "complex": answer[0]["speed"] = np.array([1j, 1.0])
                case "no dictionary": answer[0] = np.zeros(5, np.float32)
                case "two rewards": answer[1] = np.zeros(2)
                case "reward of words": answer[1] = "much"
                case "nothing at all": return None
                case "four values": return tuple(answer[:2] + answer[3:])
                case "flag of words": answer[2] = "yes"
                case "harmless dtype": answer[0]["speed"] = answer[0]["speed"].astype(np.int64)
                case "harmless reward": answer[1] = np.full((1, 1), answer[1])
        return tuple(answer)
'''

RAISING = (
    "raise",
    "raise without words",
    "raise a long one",
    "raise what cannot be pickled",
    "stop iteration",
    "keyboard",
    "sys.exit",
)
ENDING = ("os._exit", "segfault", "killed")
WRONG = (
    "nan",
    "inf",
    "nan reward",
    "wrong shape",
    "broadcast shape",
    "missing key",
    "wrong choice",
    "words",
    "objects",
    "complex",
    "no dictionary",
    "two rewards",
    "reward of words",
    "nothing at all",
    "four values",
    "flag of words",
)
HARMLESS = ("harmless dtype", "harmless reward")
TINY = ("hidden=8,8", "batch_size=8", "random_steps=20", "replay_size=500", f"env_timeout={ENV_TIMEOUT}")


def command(way: str, fault: str, at: int) -> list[str]:
    """The command line of a case, in its folder."""
    named = ["plant.py:Plant", "--env-kwargs", f"fault={fault}", "--env-kwargs", f"at={at}"]
    settings = [word for setting in TINY for word in ("--set", setting)]
    match way:
        case "sync" | "async":
            together = ["--set", "n_envs=2", "--set", f"asynchronous={str(way == 'async').lower()}"]
            return [
                "train",
                "td3",
                *named,
                "--steps",
                "90",
                "--eval-every",
                "0",
                "--checkpoint-every",
                "20",
                "--out",
                "run",
                *settings,
                *together,
            ]
        case "single":
            often = ["--checkpoint-every", "20"] if fault in ENDING else []  # a fault that can be told of saves the run
            return ["train", "ddpg", *named, "--steps", "60", "--eval-every", "0", *often, "--out", "run", *settings]
        case "evaluated":
            return [
                "train",
                "ddpg",
                *named,
                "--steps",
                "60",
                "--eval-every",
                "30",
                "--eval-episodes",
                "2",
                "--out",
                "run",
                *settings,
            ]
        case _:
            steps = "2000" if fault in ENDING else "60"
            return ["data", "collect", *named, "--steps", steps, "--out", "data"]


def attempt(way: str, fault: str, at: int) -> Outcome:
    """Run one case in a folder of its own, and the run again in an environment that is right."""
    kind = f"{fault}, {way}"
    folder = Path(tempfile.mkdtemp(prefix="environments"))
    try:
        (folder / "plant.py").write_text(PLANT)
        code, said = fittedq(folder, command(way, fault, at))
        told = judged(way, fault, at, code, said)
        if told is None and fault not in HARMLESS and at > 0 and (fault == "raise" or way in ("single", "collected")):
            told = kept(folder, way, fault, at)
        return Outcome(kind, told is None, told or "", {"exit": code})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def judged(way: str, fault: str, at: int, code: int | None, said: str) -> str | None:
    """What is wrong with how the process ended; None: nothing."""
    if code is None:
        return f"it hung: {said[-300:]}"
    if "Traceback" in said:
        return f"traceback: {said[-500:]}"
    if fault in HARMLESS:
        return None if code == 0 else f"exit {code} for what is harmless: {said[-300:]}"
    if fault in ENDING and way != "async":
        return None  # nobody is left to tell
    sentences = [line for line in said.splitlines() if line.startswith("fittedq: ")]
    if code != 2 or len(sentences) != 1:
        return f"exit {code}, {len(sentences)} sentences: {said[-300:]}"
    if at > 0 and not re.search(r"Plant(, episode \d+)?, step \d+: ", sentences[0]):
        return f"no step in: {sentences[0][:300]}"
    return None


def kept(folder: Path, way: str, fault: str, at: int) -> str | None:
    """What was lost of what came before the fault, by a resume where the environment is right; None: nothing."""
    if way == "collected":
        if fault in ENDING:
            code, said = fittedq(folder, command(way, fault, at))
            if code != 2 or "was killed" not in said:
                return f"the next collection ended with {code}: {said[-300:]}"
        manifest = folder / "data" / "manifest.json"
        rows = json.loads(manifest.read_text())["count"] if manifest.is_file() else 0
        enough = at - 100 <= rows < at if fault in ENDING else rows == at - 1
        return None if enough else f"{rows} rows of {at - 1} kept"
    checkpoints = folder / "run" / "checkpoints"
    if not checkpoints.is_dir() or not any(checkpoints.iterdir()):
        return None if at <= 20 else "no checkpoint"
    code, said = fittedq(
        folder,
        [
            "resume",
            "run",
            "--trust-code",
            "plant.py:Plant",
            "--trust-code",
            f"fault={json.loads((folder / 'run' / 'config.json').read_text())['env']['kwargs']['fault']}",
        ],
        FAULT="mended",
    )
    return None if code == 0 else f"resume ended with {code}: {said[-300:]}"


def fittedq(folder: Path, arguments: list[str], **more: str) -> tuple[int | None, str]:
    """(exit code, negative for a signal, or None after the time limit; all that was printed)."""

    def work() -> int:
        os.chdir(folder)
        os.environ.update(more)
        return children.fittedq(*arguments)()

    ended = children.run(work)
    return None if ended.seconds > children.LIMIT else ended.code, ended.output


def cases() -> Iterator[tuple[str, Trial]]:
    """All of them, by name."""
    ways = ("single", "sync", "evaluated", "collected")
    for fault, way in itertools.product((*RAISING, *WRONG, *HARMLESS), ways):
        yield f"{fault}, {way}, step 37", partial(attempt, way, fault, 37)
    for fault in (*RAISING, *WRONG[:6], *HARMLESS):
        yield f"{fault}, async, step 37", partial(attempt, "async", fault, 37)
    for fault, (way, at) in itertools.product(
        ENDING, (("single", 37), ("collected", 1037), ("async", 1), ("async", 37))
    ):
        yield f"{fault}, {way}, step {at}", partial(attempt, way, fault, at)
    for at in (1, 25, 37, 40):
        yield f"hang, async, step {at}", partial(attempt, "async", "hang", at)
    for fault, way in itertools.product(("raise", "sys.exit", "raise what cannot be pickled"), (*ways, "async")):
        yield f"{fault}, {way}, made", partial(attempt, way, fault, 0)
    for fault, way, at in itertools.product(("raise", "nan", "wrong shape"), ways, (1, 2, 20, 21)):
        yield f"{fault}, {way}, step {at}", partial(attempt, way, fault, at)
    for fault, at in itertools.product(("raise", "nan", "wrong shape"), (5, 40)):
        yield f"{fault}, collected, step {at}", partial(attempt, "collected", fault, at)


if __name__ == "__main__":
    children.ready()
    sys.exit(campaign("environments", PROMISE, dict(cases())))
