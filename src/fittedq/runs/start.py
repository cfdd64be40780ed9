"""A warm start: a run's first networks are an agent's."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from fittedq.actions.base import described_apart
from fittedq.agent import Agent
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.approx.batch_norm import BatchNormMlp
from fittedq.approx.heads import AbstractHead
from fittedq.approx.networks import Mlp
from fittedq.arrays import Tree
from fittedq.control.state import AugmentedState
from fittedq.errors import UserError
from fittedq.files import digest_of
from fittedq.template.fits import Descend
from fittedq.trainers.base import AbstractTrainer
from fittedq.trainers.state import from_arrays, to_arrays
from fittedq.types import Components, sized


def begin_with(
    trainer: AbstractTrainer,
    algorithm: AbstractAlgorithm,
    agent: Agent,
    normalizes: bool,
    augmented: AugmentedState | None = None,
) -> None:
    """Give `trainer` the agent's networks for all that the method learns, and its normalization of observations.

    What the method has and does not learn (known physics, a fixed temperature) stays its own. A UserError says which
    component, shape or action set does not fit.
    """
    if agent.obs_size != trainer.obs_size:
        raise _refused(f"its observations have {agent.obs_size} numbers, this run's {trainer.obs_size}.")
    if agent.augmented != augmented:
        raise _refused("it sees another history, other errors or other changes; train with its settings.")
    if agent.action_set != trainer.action_set:
        own, others = described_apart(agent.action_set, trainer.action_set)
        raise _refused(f"its actions lie in {own}, this run's in {others}.")
    if (agent.moments is not None) != normalizes:
        reads = "normalized observations" if agent.moments is not None else "observations in their own units"
        raise _refused(f"its networks read {reads}; set normalize_obs to {str(not normalizes).lower()}.")
    if agent.nets.critic is not None and (agent.reward_scale != 1.0) != trainer.watch.scaled:
        learned = "scaled rewards" if agent.reward_scale != 1.0 else "rewards in their own unit"
        raise _refused(
            f"its critics learned from {learned}; set scale_rewards to {str(not trainer.watch.scaled).lower()}."
        )
    trainer.begin_with(_fitting(trainer.nets(), algorithm, agent), agent.moments)


def _fitting(nets: Components, algorithm: AbstractAlgorithm, agent: Agent) -> Components:
    """`nets` with the agent's weights in what the method learns."""
    updates = algorithm.template(agent.action_set).updates
    if any(isinstance(update.fit, Descend) and update.fit.budget.reset for update in updates):
        raise _refused("with reset, each fit begins with new networks.")
    learned = {update.component for update in updates}
    for name in sorted(learned):
        own, others = getattr(nets, name), getattr(agent.nets, name)
        if others is None:
            raise _refused(f"it is of {agent.algorithm.name} and has no {name}, which {algorithm.name} learns.")
        theirs = to_arrays(f"nets/{name}", others)
        own = getattr(sized(nets, theirs), name)
        same = _kind(own) is _kind(others) and _meanings(own) == _meanings(others)
        if not same or _shapes(to_arrays(f"nets/{name}", own)) != _shapes(theirs):
            raise _refused(f"its {name} is {_described(others)}, this run's {_described(own)}; give both one shape.")
        nets = nets.replace(name, from_arrays(f"nets/{name}", own, theirs))
    return nets


def _kind(part: Tree) -> type:
    """Its class; an array is one on the host as on the device."""
    return type(part) if isinstance(part, eqx.Module) else np.ndarray


def _activations(part: Tree) -> list[Any]:
    return [node.activation for node in _nodes(part) if isinstance(node, Mlp | BatchNormMlp)]


def _meanings(part: Tree) -> list[Any]:
    """What numbers of the same shape could mean different things by: activations, and the heads of critics."""
    return _activations(part) + [node for node in _nodes(part) if isinstance(node, AbstractHead)]


def _nodes(part: Tree) -> list[Any]:
    return jax.tree.leaves(part, is_leaf=lambda node: isinstance(node, Mlp | BatchNormMlp | AbstractHead))


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _described(part: Tree) -> str:
    shapes = " ".join("×".join(map(str, np.shape(leaf))) or "1" for leaf in jax.tree.leaves(part))
    return " ".join([f"a {type(part).__name__} of", shapes, *sorted(set(_activations(part)))])


def origin_of(agent: Agent) -> dict[str, Any]:
    """What a run's configuration says of the agent it began with."""
    nets = {name: array.tolist() for name, array in to_arrays("nets", agent.nets).items()}
    return {"algorithm": agent.algorithm.name, "networks": digest_of(nets)}


def _refused(sentence: str) -> UserError:
    return UserError(f"the agent does not fit: {sentence}", argument="start")
