"""What `fittedq advise` says of problems on which several methods were measured, and how near the best it is.

    .venv/bin/python benchmarks/advise.py              # problems of this environment
    .venv-plants/bin/python benchmarks/advise.py       # those of target-gym
    .venv/bin/python benchmarks/advise.py --show       # the table of what ran, also into docs/advise.md

Nothing is trained: the scores are the means over seeds of last agents in the files beside, each named. Measured are the
facts by which the advice is given (2,000 samples under random actions, or the log), and the constant action where no
file has it. `share` is (score of the advice − constant) / (best − constant): 1 is the best of those that were measured.
Thresholds were set on the problems of SET. The others were looked at afterwards; which of them there are was decided by
what had been measured, all with two methods or more. Of a PID of several loops there is no command, so that it is a
competitor and never the advice.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fittedq
from fittedq.baselines.simple import Constant
from fittedq.cli.advise import _gap
from fittedq.data.dataset import Dataset
from fittedq.envs.plant import AbstractPlant, resolve
from fittedq.files import write_json
from fittedq.runs.advise import Advice, Facts, tried
from machine import describe
from plants import PIDS, errors

RESULTS = Path("benchmarks/results")
RESULT = RESULTS / "advise.json"
PAGE = Path("docs/advise.md")
MARK, END = "<!-- advice: written by benchmarks/advise.py -->\n", "<!-- end of advice -->"
SET = ("cstr", "boiler_drum", "four_tank", "cart_pole", "pendulum", "halfcheetah, log", "hvac")
"""That thresholds were set on; all others are checked."""
PLANTS = [
    "first_order",
    "cstr",
    "distillation",
    "hvac",
    "four_tank",
    "boiler_drum",
    "ph_neutralization",
    "wind_turbine",
    "battery",
    "cement_kiln",
    "glass_furnace",
]
"""The package's, as many as make twelve problems that are checked, in the order of plants.json."""
ENTRIES = {("auto", True): "plant", ("auto", False): "xqc"}
"""(method, with the preset for plants) → the entry that was measured; other methods are called by their names."""
PACKAGES = ("jax", "numpy")
NEAR = 0.95
"""Share of the span from which an advice is as good as the best."""

Scores = dict[str, float]


class Problem(NamedTuple):
    """Where its facts and scores come from."""

    plant: Callable[[], AbstractPlant]
    scores: Scores
    """Mean return by entry; without `constant` it is played where the facts are measured."""
    sources: str
    steps: int = 100_000
    follows: Callable[[], tuple[str, ...]] = tuple
    log: Callable[[], Dataset] | None = None


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def mean_at(pattern: str, step: int) -> float:
    """The mean return at a step over the files of a pattern."""
    found = []
    for file in sorted(RESULTS.glob(pattern)):
        line = next(line for line in json.loads(file.read_text())["curve"] if line["step"] == step)
        found.append(line["eval_mean"] if "eval_mean" in line else np.mean(line["returns"]))
    return float(np.mean(found))


def last(pattern: str, figure: str) -> float:
    """The mean of a figure over the files of a pattern."""
    return float(np.mean([json.loads(file.read_text())[figure] for file in sorted(RESULTS.glob(pattern))]))


def plant_scores(name: str) -> Scores:
    """Of benchmarks/results/plants.json, each entry's mean over seeds; of the PIDs the best."""
    found: dict[str, list[float]] = {}
    for key, value in read("plants.json").items():
        plant, entry, _ = key.rsplit("/", 2)
        if plant == name:
            found.setdefault(entry, []).append(value["mean"])
    means = {entry: float(np.mean(values)) for entry, values in found.items()}
    names = {
        "constant": ("constant",),
        "pid": sorted(PIDS, key=lambda entry: -means.get(entry, -np.inf)),
        "td3": ("td3",),
        "svg": ("svg, normalized", "svg"),
        "plant": ("plant", "plant, short", "plant, white noise, errors untold"),
    }
    return {
        short: next(means[one] for one in known if one in means)
        for short, known in names.items()
        if means.keys() & set(known)
    }


def target_gym() -> Iterator[tuple[str, Problem]]:
    """The plants of the package, which is looked for where they are measured."""

    def spec(name: str) -> Any:
        from target_gym.registry import REGISTRY

        return REGISTRY[name]

    def made(name: str) -> AbstractPlant:
        return resolve(fittedq.Gymnax(spec(name).make_env(), spec(name).make_test_params()))

    for name in PLANTS:
        yield (
            name,
            Problem(
                lambda name=name: made(name),
                plant_scores(name),
                "plants.json",
                follows=lambda name=name: errors(spec(name).make_env()),
            ),
        )


def ours() -> Iterator[tuple[str, Problem]]:
    """The problems of this environment."""
    ahead = read("against_baselines.json")
    rows = {
        plant: {row["name"]: row["mean"]["mean"] for row in ahead[plant]["rows"]}
        for plant in ("two_tanks", "cart_pole")
    }
    seeds = {
        plant: float(np.mean([found[f"plant, seed {seed}"] for seed in range(3)])) for plant, found in rows.items()
    }
    tanks = {name: rows["two_tanks"][name] for name in ("constant", "pid", "lqr")} | {"plant": seeds["two_tanks"]}
    cart = {name: rows["cart_pole"][name] for name in ("constant", "lqr")} | {"plant": seeds["cart_pole"]}
    cart["td3"] = float(np.mean([143.3, 141.3, 112.3]))
    beside = "against_baselines.json"
    yield "two_tanks", Problem(lambda: resolve("jax/TwoTanks-v1"), tanks, beside, 40_000, lambda: ("1:2",))
    yield (
        "cart_pole",
        Problem(
            lambda: resolve("jax/CartPole-v1"), cart, f"{beside}, td3: at commit a491fd8", 40_000, lambda: ("0=0",)
        ),
    )
    swing = {
        name: last(f"pendulum/fittedq-{name}-Pendulum-v1-*.json", "last") for name in ("sac", "td3", "ddpg", "sac_v")
    }
    yield "pendulum", Problem(lambda: resolve("Pendulum-v1"), swing, "pendulum", 10_000)
    for name in ("HalfCheetah", "Hopper"):
        at = {method: mean_at(f"learning/fittedq-{method}-{name}-v5-*.json", 50_000) for method in ("sac", "td3")}
        at |= {"svg": mean_at(f"svg/svg-3-{name}-v5-*.json", 50_000)}
        at |= {"xqc": mean_at(f"normalized/xqc-w256-1-{name}-v4-*.json", 50_000)}
        sources = "learning, svg (version 5), normalized (version 4)"
        yield name.lower(), Problem(lambda name=name: resolve(f"{name}-v5"), at, sources, 50_000)
    curves = read("mjx_cart_pole.json")["runs"]
    early = {
        short: float(
            np.mean(
                [
                    max((c for c in run["curve"] if c["step"] <= 2_500), key=lambda c: c["step"])["mean"]
                    for run in curves
                    if run["name"] == name
                ]
            )
        )
        for short, name in (("svg", "svg(inf)"), ("sac", "sac"))
    }
    yield (
        "mjx cart-pole",
        Problem(lambda: resolve("jax/MjxCartPole-v1"), early, "mjx_cart_pole.json, at 2,500 steps", 2_500),
    )
    fitted = ("explicit_fqi", "amortized_fqi", "nfqca", "smooth_fqi", "tree_fqi")
    logged = {name: last(f"offline_pendulum/{name}-random-*.json", "mean_return") for name in fitted}
    yield (
        "pendulum, log",
        Problem(
            lambda: resolve("Pendulum-v1"),
            logged,
            "offline_pendulum",
            log=lambda: tried(resolve("Pendulum-v1"), 4_000, 0)[0],
        ),
    )
    cheetah = {
        name: last(f"offline_halfcheetah/{name}-*.json", "mean_return") for name in ("amortized_fqi", "nfqca", "td3")
    }
    yield (
        "halfcheetah, log",
        Problem(
            lambda: resolve("HalfCheetah-v5"),
            cheetah,
            "offline_halfcheetah",
            log=lambda: tried(resolve("HalfCheetah-v5"), 2_000, 0)[0],
        ),
    )


def facts_of(problem: Problem, seed: int = 0) -> dict[str, Any]:
    """What is measured of a problem, and its constant action."""
    plant = problem.plant()
    said = {"steps": problem.steps, "follows": problem.follows(), "hours": 1.0}
    if problem.log is None:
        data, seconds = tried(plant, 2_000, seed)
        facts = Facts.of(data, plant, **said, sample_seconds=seconds, gap=None)
    else:
        data = problem.log()
        facts = Facts.of(data, None, **said, sample_seconds=None, gap=_gap(data, seed))
    center = Constant(plant.action_set.center)
    constant = problem.scores.get("constant") or float(center.evaluate(plant, 10, 0).mean())
    return {"facts": asdict(facts), "scores": {"constant": constant}}


def judged(problem: Problem, measured: dict[str, Any]) -> dict[str, Any]:
    """What the tool says of these facts, and how near the best it is."""
    facts = measured["facts"]
    advice = Advice.of(Facts(**facts | {"follows": tuple(facts["follows"])}))
    entry = ENTRIES.get((advice.method, "plant" in advice.words), advice.method)
    scores = {"constant": measured["scores"]["constant"]} | problem.scores
    best = max(scores, key=scores.__getitem__)
    span = scores[best] - scores["constant"]
    share = (scores[entry] - scores["constant"]) / span if entry in scores else None
    found = {"facts": facts, "advice": asdict(advice), "entry": entry, "scores": scores, "best": best}
    return found | {"share": share, "sources": problem.sources}


def table(problems: dict[str, Any]) -> str:
    """All that ran, as Markdown."""
    lines = ["| problem | m | advice | its score | the others | constant | share |", "|---|---|---|---|---|---|---|"]
    hits = dict.fromkeys((True, False), (0, 0))
    for name, one in sorted(problems.items(), key=lambda item: (item[0] not in SET, item[0])):
        scores, entry, share = one["scores"], one["entry"], one["share"]
        near = share is not None and share >= NEAR
        hits[name in SET] = (hits[name in SET][0] + near, hits[name in SET][1] + 1)
        others = sorted(scores.keys() - {entry, "constant"}, key=scores.__getitem__, reverse=True)
        cells = [
            f"{name}{' (set)' * (name in SET)}",
            str(one["facts"]["actions"]),
            entry,
            "not measured" if share is None else f"{scores[entry]:,.1f}",
            ", ".join(f"{other} {scores[other]:,.1f}" for other in others),
            f"{scores['constant']:,.1f}",
            "–" if share is None else f"{share:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    (own, of_own), (checked, of_checked) = hits[True], hits[False]
    of_set = f"of those that thresholds were set on {own} of {of_own}"
    told = f"Within {1 - NEAR:.0%} of the span: {checked} of {of_checked}; {of_set}."
    return "\n".join([*lines, "", told])


def kept() -> dict[str, Any]:
    """What ran so far."""
    return json.loads(RESULT.read_text()) if RESULT.exists() else {"problems": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    own = importlib.util.find_spec("target_gym") is None
    for name, problem in () if given.show else (ours() if own else target_gym()):
        if given.only is None or name in given.only:
            measured = facts_of(problem)
            found = kept()  # another process may have written
            found["problems"][name] = judged(problem, measured)
            found["about" if own else "about plants"] = describe(*PACKAGES)
            write_json(RESULT, found)
    found = kept()
    known = dict([*ours(), *target_gym()])
    found["problems"] = {name: judged(known[name], one) for name, one in found["problems"].items()}
    if given.show:
        write_json(RESULT, found)
        begin, _, after = PAGE.read_text().partition(MARK)
        end = after.partition(END)[2]
        PAGE.write_text(f"{begin}{MARK}\n{table(found['problems'])}\n\n{END}{end}")
    print(table(found["problems"]))


if __name__ == "__main__":
    main()
