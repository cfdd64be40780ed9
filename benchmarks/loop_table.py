"""The compiled controller in the loop: what it earns on the plant as it is, and where sensors and clock are off.

    .venv/bin/python benchmarks/loop_table.py            # trains what is not there, exports C, plays; some minutes
    .venv/bin/python benchmarks/loop_table.py --show     # the tables of what ran, as Markdown

Each agent is exported to C, compiled, and called through ctypes once a sample of the plant's own rate, in the same 40
episodes as the agent itself (`fittedq.robustness`). `difference` is C less the agent, episode by episode; `share` is
that by the agent's mean return. The same switches are given to both. A guarded agent has a threshold of .01 by the
data that it learned from (5,000 samples of its own with noise .3, where it learned from no log), and holds its action.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from controllers import AGENTS
from fittedq.acting.stepwise import Statuses, Stepwise
from fittedq.agent import Agent
from fittedq.diagnose.paired import Interval
from fittedq.export.languages import at_work
from machine import describe

RESULT, EPISODES, SEED = Path("benchmarks/results/loop_table.json"), 40, 7
SWITCHES = (
    "sensor_delay=1",
    "sensor_delay=2",
    "drop=0.1",
    "drop=0.3",
    "quantize=0.05",
    "quantize=0.2",
    "jitter=0.1",
    "jitter=0.3",
    "sensor_delay=1,drop=0.1,quantize=0.05,jitter=0.1",
)
DEAD = {"pendulum": 2, "two_tanks": 1, "cart_pole": 2, "hopper": 0}
"""The sensor that is dead from the middle of an episode on: of a rate, a level, an angle, a height."""


def guarded(agent: Agent) -> Agent:
    """It holds its action where nothing familiar is seen."""
    agent.fallback, agent.threshold = "hold", 0.01
    return agent


def played(agent: Agent, env: str, dead: int) -> dict[str, Any]:
    """The agent and its export in C, in the same loops."""
    switches = (*SWITCHES, f"dead={dead}")
    with tempfile.TemporaryDirectory() as scratch:
        told = agent.export(Path(scratch) / "c", "c")
        with at_work(Path(scratch) / "c") as (running, _):
            ours, theirs = agent.stepwise("agent"), Stepwise(running, agent.spaces.observation.size, agent.limits, "C")
            began = time.perf_counter()
            found = fittedq.robustness({"agent": ours, "C": theirs}, env, switches, episodes=EPISODES, seed=SEED)
            seconds = time.perf_counter() - began
    loops = ("as it is", *map(str, found.perturbed))
    comparisons = (found.nominal, *found.perturbed.values())
    statuses = Statuses(theirs.statuses, EPISODES, loops).describe()
    rows = [row(one, status, found.nominal) for one, status in zip(comparisons, statuses, strict=True)]
    return {"verified": told["verified"], "facts": told["facts"], "seconds": round(seconds, 1), "loops": rows}


def row(comparison: Any, status: dict[str, Any], nominal: Any) -> dict[str, Any]:
    """What C earns in one loop, beside the agent in it, and beside itself in the loop as it is."""
    of, before = ({one.name: one.returns for one in each.rows} for each in (comparison, nominal))
    difference, scale = Interval.of(of["C"] - of["agent"]), abs(float(of["agent"].mean()))
    return {
        "loop": status["loop"],
        "return": Interval.of(of["C"])._asdict(),
        "lost": Interval.of(before["C"] - of["C"])._asdict(),
        "difference": difference._asdict(),
        "share": [difference.low / scale, difference.high / scale],
        "samples": status["samples"],
        "fallback": fallback(status),
    }


def fallback(status: dict[str, Any]) -> dict[str, Any]:
    """How often it acted, in how many spans, and when first."""
    spans = status["fallback"]
    acted = sum(span["samples"] for span in spans)
    share = acted / sum(status["samples"].values())
    first = float(np.median([span["sample"] for span in spans])) if spans else None
    longest = max((span["samples"] for span in spans), default=0)
    return {"share": share, "spans": len(spans), "median_begin": first, "longest": longest}


def table(name: str, one: dict[str, Any]) -> str:
    """As Markdown."""
    head = ["loop", "return of C [95 %]", "lost [95 %]", "C less the agent, share [95 %]", "statuses", "fallback"]
    lines = [head, ["---"] * len(head)]
    for loop in one["loops"]:
        shares = " to ".join(f"{share:+.2%}" for share in loop["share"])
        count = sum(loop["samples"].values())
        told = ", ".join(f"{status} {number / count:.1%}" for status, number in loop["samples"].items())
        acted = loop["fallback"]
        fell = f"{acted['share']:.1%} of samples, {acted['spans']} spans" if acted["spans"] else "–"
        lines.append([loop["loop"], interval(loop["return"]), interval(loop["lost"]), shares, told, fell])
    return f"**{name}** ({one['trained']})\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summarized(results: dict[str, Any]) -> str:
    """All agents: what C earns as it is, beside what the agent earns; and what it loses, in shares of that."""
    lines = [["loop", *results], ["---"] * (len(results) + 1)]
    own = [abs(one["loops"][0]["return"]["mean"]) for one in results.values()]
    ends = [f"within {max(map(abs, one['loops'][0]['share'])):.0e}" for one in results.values()]
    lines.append(["as it is: return of C", *(f"{one['loops'][0]['return']['mean']:.1f}" for one in results.values())])
    lines.append(["C less the agent, share of it [95 %]", *ends])
    for place in range(1, len(SWITCHES) + 2):
        several = [one["loops"][place] for one in results.values()]
        cells = [share(one, scale) for one, scale in zip(several, own, strict=True)]
        label = several[0]["loop"] if place <= len(SWITCHES) else "a dead sensor"
        lines.append([label, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(loop: dict[str, Any], scale: float) -> str:
    """What is lost, and how often the fallback acted."""
    acted = loop["fallback"]["share"]
    lost = round(loop["lost"]["mean"] / scale, 2) + 0.0
    return f"{lost:.0%}" + (f" ({acted:.0%})" if acted >= 0.005 else "")


def interval(one: dict[str, float]) -> str:
    return f"{one['mean']:.1f} [{one['low']:.1f}, {one['high']:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", nargs="+", default=list(AGENTS), choices=list(AGENTS))
    parser.add_argument("--show", action="store_true", help="what ran, and nothing else")
    given = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in () if given.show else given.agent:
        env, trained = AGENTS[name]
        agent = trained.agent(name, env)
        variants = {name: agent} | ({} if agent.familiarity is None else {f"{name}, guarded": None})
        for label in variants:
            acting = agent if label == name else guarded(trained.agent(name, env))
            found = played(acting, env, DEAD[name])
            about = describe("fittedq", "numpy", "jax", "gymnasium") | {"load average": os.getloadavg()}
            how = {"about": about, "trained": f"{trained}, on {env}", "episodes": EPISODES, "seed": SEED}
            results[label] = how | found
            RESULT.write_text(json.dumps(results, indent=1) + "\n")
            print(table(label, results[label]), end="\n\n", flush=True)
    if given.show:
        print("\n\n".join([summarized(results), *(table(name, one) for name, one in results.items())]))


if __name__ == "__main__":
    main()
