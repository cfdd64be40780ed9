"""What every campaign shares: each case is tried once, what became of it is kept, and the sums are written as data.

    cases = {"bit 3 of config.json": partial(flip, "config.json", 3), …}
    sys.exit(campaign("flips", "A damaged file is named; nothing else happens.", cases))

A trial returns what became of it, one `Outcome`; an exception that leaves it is a loss too. Outcomes are appended to
`build/reliability/NAME.jsonl` one by one, so a campaign that was interrupted goes on where it stopped. When every case
was tried, `results/NAME.json` and the table in the README are written.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "reliability" / "results"
WORK = ROOT / "build" / "reliability"
PACKAGES = ("fittedq", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "safetensors")
BEGIN, END = "<!-- table -->", "<!-- end of table -->"

sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]
from marks import between  # noqa: E402

from machine import describe  # noqa: E402


@dataclass(frozen=True)
class Outcome:
    """What became of one case: `kind` is the row it is counted in, `cause` says of a loss what was lost and why."""

    kind: str
    survived: bool
    cause: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Whatever else is to be counted of it: words or whole numbers, or lists of them."""
    count: int = 1
    """How much was tried: a run that is killed five times before it ends counts five, also where it is lost."""


Trial = Callable[[], Outcome]


def campaign(
    name: str, promise: str, cases: Mapping[str, Trial], arguments: Sequence[str] | None = None, **more: Any
) -> int:
    """Try every case that was not tried before; the exit code is 1 where something was lost.

    `more` goes into the result as it is. Flags: --count N (only N cases, spread over all), --minutes M (stop after so
    many; the next call goes on), --afresh (forget what was tried), --out FILE.
    """
    parser = argparse.ArgumentParser(prog=f"reliability/{name}.py", description=promise)
    parser.add_argument("--count", type=int, help="only so many cases, spread over all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long; call again to go on")
    parser.add_argument("--afresh", action="store_true", help="try again what was tried")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="one of N processes; a last call sums up")
    parser.add_argument("--out", type=Path, help=f"result file; by default reliability/results/{name}.json")
    flags = parser.parse_args(arguments)
    chosen = spread(list(cases), flags.count)
    log = WORK / f"{name}.jsonl" if flags.out is None else flags.out.with_suffix(".jsonl")
    log.parent.mkdir(parents=True, exist_ok=True)
    if flags.afresh:
        log.unlink(missing_ok=True)
    tried = _tried(log)
    until = time.monotonic() + 60 * flags.minutes
    part, parts = map(int, flags.part.split("/"))
    mine = chosen[(part - 1) * len(chosen) // parts : part * len(chosen) // parts]
    for number, case in enumerate(mine, 1):
        if case in tried:
            continue
        if time.monotonic() > until:
            print(f"{name}: {number - 1} of {len(mine)} tried; call again to go on.", flush=True)
            return 3
        start = time.monotonic()
        outcome = _attempt(cases[case])
        tried[case] = asdict(outcome) | {"seconds": round(time.monotonic() - start, 2)}
        with log.open("a") as file:
            file.write(json.dumps({"case": case} | tried[case]) + "\n")
        verdict = "survived" if outcome.survived else f"LOST: {outcome.cause}"
        print(f"{name} {number}/{len(mine)} {case}: {verdict}", flush=True)
    if parts > 1:
        return 0
    result = summed(promise, {case: tried[case] for case in chosen}) | more | describe(*PACKAGES)
    whole = flags.out is None and len(chosen) == len(cases)
    out = RESULTS / f"{name}.json" if whole else flags.out or log.with_suffix(".json")
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if whole:
        write_table()
    print(f"{name}: tried {result['tried']}, survived {result['survived']}, lost {result['lost']} ({out})", flush=True)
    return 1 if result["lost"] else 0


def summed(promise: str, tried: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Tried, survived and lost, in all and of each kind; every loss with its cause; how often each fact was met."""
    kinds: dict[str, dict[str, int]] = {}
    facts: dict[str, Counter[str]] = {}
    for outcome in tried.values():
        row = kinds.setdefault(outcome["kind"], {"tried": 0, "survived": 0, "lost": 0})
        row["tried"] += outcome["count"]
        row["survived" if outcome["survived"] else "lost"] += outcome["count"]
        for fact, value in outcome["facts"].items():
            values = value if isinstance(value, list) else [value]
            facts.setdefault(fact, Counter()).update(map(str, values))
    return {
        "promise": promise,
        **{what: sum(row[what] for row in kinds.values()) for what in ("tried", "survived", "lost")},
        "kinds": dict(sorted(kinds.items())),
        "losses": [
            {"case": case} | {name: outcome[name] for name in ("kind", "count", "cause")}
            for case, outcome in tried.items()
            if not outcome["survived"]
        ],
        "facts": {fact: dict(sorted(counts.items())) for fact, counts in sorted(facts.items())},
        "seconds": round(sum(outcome["seconds"] for outcome in tried.values()), 1),
    }


def spread(cases: list[str], count: int | None) -> list[str]:
    """`count` of the cases, one at random (always the same one) from each of as many equal parts; or all."""
    if count is None or count >= len(cases):
        return cases
    draw = random.Random(0)
    edges = [index * len(cases) // count for index in range(count + 1)]
    return [cases[draw.randrange(start, stop)] for start, stop in pairwise(edges)]


def table(results: Iterable[Path]) -> str:
    """The last results as a Markdown table."""
    lines = ["| campaign | what is promised | tried | survived | lost | when |", "|---|---|---|---|---|---|"]
    for path in sorted(results):
        result = json.loads(path.read_text())
        numbers = " | ".join(f"{result[what]:,}" for what in ("tried", "survived", "lost"))
        lines.append(f"| `{path.stem}` | {result['promise']} | {numbers} | {result['date'][:10]} |")
    return "\n".join(lines)


def write_table() -> None:
    """Put the table of the last results into the README."""
    readme = RESULTS.parent / "README.md"
    readme.write_text(between(readme.read_text(), BEGIN, f"\n{table(RESULTS.glob('*.json'))}\n", END))


def _attempt(trial: Trial) -> Outcome:
    try:
        return trial()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome("not finished", False, f"{type(error).__name__} in {where.name}: {error}")


def _tried(log: Path) -> dict[str, dict[str, Any]]:
    """The outcomes of earlier calls; a last line that was cut short does not count."""
    outcomes: dict[str, dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            outcome = json.loads(line)
        except ValueError:
            continue
        outcomes[outcome.pop("case")] = outcome
    return outcomes


if __name__ == "__main__":
    write_table()
