"""Ours beside d3rlpy on the sets of `offline_sets.py`, from the runs that there are; what has not run is said.

    .venv/bin/python benchmarks/offline_table.py > benchmarks/results/offline.md

A return is that of the last agent, after 100 000 updates: the mean of 10 episodes. Ours are inside d3rlpy's range where
the mean over our seeds lies between its least and its best seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from offline_sets import RESULTS, UPDATES, cells


def last(who: str, method: str, env: str, kind: str, seed: int) -> float | None:
    """The last return of a run; None where it has not run to its end."""
    file = RESULTS / "offline" / f"{who}-{method}-{env}-{kind}-{seed}.json"
    if not file.exists():
        return None
    end = json.loads(file.read_text())["curve"][-1]
    return float(end["eval_mean"]) if end["step"] >= UPDATES else None


def verdict(ours: list[float], theirs: list[float], seeds: int) -> str:
    """How our mean lies to their range."""
    if len(ours) < seeds or len(theirs) < seeds:
        return f"{len(ours)} of {seeds} seeds beside {len(theirs)}"
    mean = sum(ours) / len(ours)
    return "below" if mean < min(theirs) else "above" if mean > max(theirs) else "inside"


def rows(wanted: list[tuple[str, str, str, int]]) -> Iterator[tuple[str, ...]]:
    """(set, method, what the log earned, ours, theirs, verdict) of each set and method with a run."""
    for method, env, kind in dict.fromkeys(one[:3] for one in wanted):
        seeds = [one[3] for one in wanted if one[:3] == (method, env, kind)]
        ours, theirs = (
            [value for seed in seeds if (value := last(who, method, env, kind, seed)) is not None]
            for who in ("ours", "d3rlpy")
        )
        if not (ours or theirs):
            continue
        made = RESULTS / "offline_sets" / f"{env}-{kind}.json"
        log = f"{json.loads(made.read_text())['return_mean']:,.0f}" if made.exists() else "–"
        shown = (", ".join(f"{value:,.0f}" for value in found) or "–" for found in (ours, theirs))
        yield f"{env} {kind}", method, log, *shown, verdict(ours, theirs, len(seeds))


def main() -> None:
    wanted = list(cells())
    done = {who: sum(last(who, *one) is not None for one in wanted) for who in ("ours", "d3rlpy")}
    sets = sorted(path.stem for path in (RESULTS / "offline_sets").glob("*.json"))
    print("# Offline methods beside d3rlpy 2.8.1, on logs of our own\n")
    print(f"Of {len(wanted)} runs each, {done['ours']} of ours and {done['d3rlpy']} of d3rlpy's are done.")
    print(f"Sets made: {len(sets)} of {len({one[1:3] for one in wanted})}{': ' if sets else ''}{', '.join(sets)}.\n")
    found = list(rows(wanted))
    if found:
        print("| set | method | the log | ours, each seed | d3rlpy, each seed | ours lie |\n|---|---|---|---|---|---|")
        print("\n".join(f"| {' | '.join(row)} |" for row in found))


if __name__ == "__main__":
    main()
