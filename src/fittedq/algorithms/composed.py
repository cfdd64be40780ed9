"""A method of one's own, put together from the slots of the template."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.code import sketch, told
from fittedq.errors import UserError
from fittedq.settings import takes_arguments
from fittedq.slots import parts
from fittedq.template.fqi import FQI
from fittedq.types import Components

Networks = Callable[[int, AbstractActionSet, PRNGKeyArray], Components]
"""(observation's size, action set, key) → the first components; the `networks` of any algorithm is one."""


class Composed(AbstractAlgorithm, eqx.Module):
    """`fqi`, a greedy step, updates in order and a sync rule written by hand, as a method to train.

    `networks` makes the first components: those that updates, targets and the greedy step name. `exploration` is
    what perturbs the policy while data is collected; from a dataset alone it is idle.

    It is code, which no file holds: a saved run or agent knows what its slots look like, and asks for the same
    composition again (`fittedq.load(path, code=method)`). What functions close over, an optimizer's learning rate say,
    cannot be compared.

    One that is `fitted` fits all of a dataset in each step of its run, and what it freezes is copied (`Copy`); else it
    learns from batches. Unless it is said, it is fitted where one of its slots needs a whole dataset.
    """

    name: ClassVar[str] = "composed"
    title: ClassVar[str] = "Composed from slots by hand"

    _fqi: FQI
    _networks: Networks = eqx.field(static=True)
    _exploration: AbstractExploration
    fitted: bool = eqx.field(static=True, repr=False)
    fitted_for: tuple[str, ...] = eqx.field(static=True, repr=False)

    def __init__(self, *, fqi: FQI, networks: Networks, exploration: AbstractExploration, fitted: bool | None = None):
        for name, value, kind in (("fqi", fqi, FQI), ("exploration", exploration, AbstractExploration)):
            if not isinstance(value, kind):
                raise UserError(f"found {type(value).__name__}, expected {kind.__name__}.", argument=name)
        if fitted not in (None, True, False):
            raise UserError(f"found {told(fitted)}, expected true or false.", argument="fitted")
        if not callable(networks) or not takes_arguments(networks, 3):
            found = sketch(networks) if callable(networks) else type(networks).__name__
            raise UserError(
                f"found {found}, expected a function of (obs_size, action_set, key), such as TD3().networks.",
                argument="networks",
            )
        self._fqi, self._networks, self._exploration = fqi, networks, exploration
        self.fitted_for = fqi.needing_dataset if fitted is None else ()
        self.fitted = bool(self.fitted_for) if fitted is None else fitted

    @property
    def discount(self) -> float:
        """γ of the first slot that has one; 0 where none has."""
        found = (getattr(part, "gamma", None) for part in parts(self._fqi))
        return next((float(gamma) for gamma in found if gamma is not None), 0.0)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        nets = self._networks(obs_size, action_set, key)
        if not isinstance(nets, Components):
            raise UserError(f"it returned {type(nets).__name__}, expected Components.", argument="networks")
        for part in (nets.critic, nets.policy):
            own = getattr(part, "action_set", action_set)
            if own is not action_set and own.describe() != action_set.describe():
                raise UserError(
                    f"it made a {type(part).__name__} over {own.describe()}, expected one over the run's actions, "
                    f"{action_set.describe()}; make it over the action set that is given.",
                    argument="networks",
                )
        return nets

    def template(self, action_set: AbstractActionSet) -> FQI:
        return self._fqi

    def exploration(self) -> AbstractExploration:
        return self._exploration

    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, tuple[int, ...]]]:
        """None: the networks are known once they are made."""
        del obs_size, action_size
        return []
