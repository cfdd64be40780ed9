"""`fittedq data collect | describe | import | check | split | export`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fittedq.acting.collect import Policy, collect
from fittedq.acting.episodes import check_spaces
from fittedq.agent import Agent
from fittedq.cli.arguments import MaybeFloat
from fittedq.cli.check import Check
from fittedq.cli.environments import LimitsActions, NamesEnv, TrustsFile
from fittedq.cli.imports import Describe, Import, told_dataset
from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.code import check_needed
from fittedq.data.blocks import FEWEST_BLOCKS, split
from fittedq.data.dataset import Dataset, Writer
from fittedq.data.exporters import export
from fittedq.data.rescue import rescued
from fittedq.envs.plant import AbstractPlant, resolve
from fittedq.errors import EnvError, UserError, plural
from fittedq.runs.progress import console, counted
from fittedq.runs.saved import find_agent


@dataclass(frozen=True)
class Collect(NamesEnv, LimitsActions, TrustsFile):
    """Collect transitions from an environment. Ctrl-C keeps what was collected.

    If the process is killed, give the same command again: it makes the dataset of what was collected.
    """

    env: tyro.conf.Positional[str]
    """A Gymnasium id (HalfCheetah-v5, module:Id), a JAX environment (jax/Pendulum-v1) or a class (module:Class,
    file.py:Class)."""
    steps: int
    """Transitions to collect."""
    out: Path
    """The dataset folder to make."""
    policy: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="random|PATH")] = ()
    """`random` (the default), or the folder of a run or an agent. Given several times, they take turns by episodes."""
    noise: float = 0.0
    """Deviation of Gaussian noise on the policies' actions, in half-widths of the action box."""
    epsilon: float = 0.0
    """Share of actions drawn uniformly from the box."""
    seed: int = 0
    """Seed of episodes, noise and random actions."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        env = self.named(self.env)
        assert env is not None
        plant = resolve(env, self.limits())
        if (left := rescued(self.out)) is not None:
            raise UserError(
                f"A collection into {self.out} was killed; the {len(left):,} transitions that it left are now the "
                "dataset there. Give another --out to collect more."
            )
        agents = {name: find_agent(Path(name), None, self.trust_code) for name in self.policy if name != "random"}
        check_needed(self.trust_code, *(agent.method for agent in agents.values()))
        policies = [self._policy(agents.get(name), plant) for name in self.policy or ("random",)]
        origin = {
            "collect": env.describe(),
            "policies": list(self.policy) or ["random"],
            "noise": self.noise,
            "epsilon": self.epsilon,
            "seed": self.seed,
        }
        with Writer(self.out, rescuable=origin) as writer:
            with interruptible() as interrupted:
                collected = collect(
                    plant,
                    self.steps,
                    writer,
                    policies=policies,
                    noise=self.noise,
                    epsilon=self.epsilon,
                    seed=self.seed,
                )
                failure: EnvError | None = None
                try:
                    for _ in counted(collected, self.steps, f"collecting {self.steps:,} steps", sums=True):
                        if interrupted:
                            break
                except EnvError as error:
                    failure = error
                collected.close()
            if failure is not None and not writer.count:
                raise failure
            writer.cut()
            dataset = writer.finish(origin)
        told_dataset(self.out, dataset, [], self.json, stopped_at=self.steps if len(dataset) < self.steps else None)
        if failure is not None:
            raise EnvError(f"{failure} The transitions before that are in {self.out}.") from failure
        return INTERRUPTED if interrupted else 0

    def _policy(self, agent: Agent | None, plant: AbstractPlant) -> Policy:
        if agent is None:
            return None
        if agent.augmented is not None:
            raise UserError(
                "found an agent that remembers what came before an observation; data are collected with policies of "
                "one observation; leave it out.",
                argument="policy",
            )
        env = plant.make()
        try:
            check_spaces(env, agent.obs_size, agent.action_set)
        finally:
            env.close()
        return agent.act_flat


@dataclass(frozen=True)
class ExportRows:
    """Write a dataset for others to read."""

    path: tyro.conf.Positional[Path]
    """A dataset folder."""
    out: Path
    """The file (.csv, .npz, .parquet) or folder (Minari) to make."""
    format: str = "auto"
    """csv, minari, npz or parquet; by default the name tells."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        dataset = Dataset.open(self.path)
        path = export(dataset, self.out, self.format)
        if self.json:
            print(json.dumps({"path": str(path), "rows": len(dataset)}))
        else:
            print(f"{path}: {len(dataset):,} transitions.")
        return 0


@dataclass(frozen=True)
class SplitBlocks:
    """Hold blocks of a log out of training, so that they can tell what a controller is worth (fittedq estimate).

    Blocks are episodes; of a log that is one long episode, stretches of at least one settling time."""

    path: tyro.conf.Positional[Path]
    """A dataset folder."""
    out: Path
    """The folder to make, to learn from."""
    held_out: Path
    """The folder to make, of the blocks that are held out."""
    share: float = 0.3
    """The share of the blocks that are held out, from everywhere in the log."""
    settling: MaybeFloat = None
    """Rows in which the plant settles (default: as described, or as a linear model of the log tells)."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        data = Dataset.open(self.path)
        learn, held_out = split(data, self.out, self.held_out, share=self.share, settling=self.settling)
        if self.json:
            print(json.dumps({"dataset": str(self.out), "rows": len(learn), "held_out": len(held_out)}))
        else:
            print(f"{self.out}: {len(learn):,} transitions. {self.held_out}: {len(held_out):,} held out.")
        if (blocks := len(held_out.episodes())) < FEWEST_BLOCKS:
            console().print(
                f"note: {plural(blocks, 'block is', 'blocks are')} held out, too few for fittedq estimate, which needs "
                f"{FEWEST_BLOCKS}: hold out a larger --share, say in how many rows the plant settles, if it is sooner "
                "(--settling), or judge by another log.",
                soft_wrap=True,
            )
        return 0


DataCommand = (
    Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Describe, tyro.conf.subcommand("describe")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[SplitBlocks, tyro.conf.subcommand("split")]
    | Annotated[ExportRows, tyro.conf.subcommand("export")]
)


@dataclass(frozen=True)
class Data:
    """Datasets of logged transitions: collect, describe, import, check, split, export."""

    command: Annotated[DataCommand, tyro.conf.arg(name="")]

    def run(self) -> int:
        return self.command.run()
