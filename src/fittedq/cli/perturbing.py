"""What commands that play controllers on a plant that is off have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fittedq.cli.environments import Words
from fittedq.cli.setpoints import played_rounds
from fittedq.diagnose.control import Tracked
from fittedq.envs.plant import AbstractPlant
from fittedq.errors import UserError
from fittedq.runs.compare import Comparison, compared
from fittedq.runs.robustness import Perturbation, Robustness, spread_of, standard
from fittedq.types import Transition

Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")]


@dataclass(frozen=True, kw_only=True)
class PerturbsPlant:
    """A command that plays the same episodes again where plant and loop are off, and tells what is lost."""

    perturb: Annotated[Words, tyro.conf.arg(metavar="NAME=NUMBER,…")] = ()
    """Play again where the loop is off: noise=0.02 (of what is measured, in shares of its deviation within episodes),
    delay=1 (samples), load=0.1 (added to actions, in half-widths, from the middle of an episode on), parameters=0.1
    (each up or down by this share), or a factor of one by its own name, such as pump=1.1. What the sensors do:
    sensor_delay=2 (samples), quantize=0.05 (steps, as noise counts), drop=0.1 (the share of samples that do not
    arrive), dead=0 (this coordinate is NaN from the middle of an episode on). What the clock does: jitter=0.1 (the
    share of decisions that come too late for their sample). What is separated by commas is off together. May be given
    often."""
    robustness: bool = False
    """Play again under each of: parameters ± 0.1 and 0.2 (where the plant names them), noise of 5 and 10 %, one and two
    samples of delay, a load of ±10 %."""
    vary: Names = ()
    """The parameters that may be off, where the plant does not say."""

    @property
    def perturbs(self) -> bool:
        """Whether anything is played again."""
        return self.robustness or bool(self.perturb)

    def perturbations(self, plant: AbstractPlant) -> list[tuple[Perturbation, AbstractPlant]]:
        """What is off, and the plant that is; a UserError before anything is played."""
        if self.vary and not self.perturbs:
            raise UserError("found no --perturb and no --robustness that it belongs to.", argument="vary")
        asked = [Perturbation.of(words) for words in self.perturb]
        asked += standard(plant, self.vary) if self.robustness else []
        return [(one, one.plant(plant, self.vary)) for one in asked]

    def perturbed(
        self,
        controllers: Mapping[str, object],
        asked: Sequence[tuple[Perturbation, AbstractPlant]],
        nominal: tuple[Comparison, Sequence[Mapping[str, Transition]]],
        seed: int,
        tracked: Sequence[Tracked],
    ) -> Robustness:
        """The episodes of `nominal` again under each of what was `asked`; of fewer where Ctrl-C ends them."""
        comparison, played = nominal
        spread = spread_of([one[next(iter(controllers))] for one in played], tracked)

        found = {}
        for one, plant in asked:
            loops = one.around(controllers, plant, spread)
            again = played_rounds(loops, plant, seed, tracked, len(played))
            if again:
                found[str(one)] = compared(again, plant, tracked)
            if len(again) < len(played):
                break
        return Robustness(comparison, found)
