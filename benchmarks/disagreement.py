"""Does the disagreement of an agent's critics tell strange states that their distance to the data does not?

    .venv/bin/fittedq train td3 Hopper-v5 --steps 15000 --out runs/hopper
    .venv/bin/python benchmarks/disagreement.py runs/hopper/last --env Hopper-v5 --out OUT.json

Both are shares of states of the policy's own episodes: how many lie as far from the others (`acting.familiar.Place`),
and how many have critics that differ as much at its action. Told are the shares of states below .025 of either,
and of the smaller of the two: of other episodes, with one coordinate off by a deviation, and with coordinates of
different states.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import fittedq
from fittedq.acting.familiar import Place, Shares
from machine import describe

LEVEL = 0.025


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agent", type=Path)
    parser.add_argument("--env", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    agent, rng = fittedq.load(given.agent), np.random.default_rng(0)
    own, new = (np.asarray(agent.trajectory(given.env, steps, seed).obs) for steps, seed in ((4000, 0), (2000, 7)))

    def deviation(obs: np.ndarray) -> np.ndarray:
        assert agent.nets.critic is not None
        seen = obs if agent.moments is None else np.asarray(agent.moments.normalize(obs))
        return np.asarray(agent.nets.critic(seen, agent.act_flat(obs))).std(axis=0)

    place, differs = Place.of(own), Shares.of(deviation(own))
    strange = {"other episodes": new}
    for column in range(new.shape[1]):
        off = new.copy()
        off[:, column] += new[:, column].std() * rng.choice([-1, 1], len(new))
        strange[f"coordinate {column} off by a deviation"] = off
    strange["coordinates of different states"] = np.stack([rng.permutation(column) for column in new.T], axis=1)
    found = {}
    for name, obs in strange.items():
        distance, disagreement = place(obs)[0], differs(deviation(obs))
        parts = {"place": distance, "disagreement": disagreement, "either": np.minimum(distance, disagreement)}
        found[name] = {part: float((share < LEVEL).mean()) for part, share in parts.items()}
        print(name, found[name], flush=True)
    told = {**describe("numpy", "gymnasium", "jax"), "agent": str(agent), "below": found}
    given.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
