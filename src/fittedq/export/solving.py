"""The solver of a controller as a stage: gradient steps on its critics, or looks along axes in its trees."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.increments import Increments
from fittedq.actions.polytope import Polytope
from fittedq.approx.heads import AbstractHead, Categorical, OneValue, Quantiles
from fittedq.approx.networks import QNetwork
from fittedq.approx.trees import TreeCritic
from fittedq.arrays import inwards
from fittedq.errors import UserError
from fittedq.export.making import Draft, nearest_of, network_lines, stretch_of
from fittedq.export.program import AbstractSolver, Ascend, Dense, Expect, ProgramLine, SearchTrees
from fittedq.maximize.base import step_scale
from fittedq.types import AbstractCritic

SPREAD_STARTS = 16
"""Points of the box from which a controller without a policy begins: the middle, and evenly spread ones."""


class Refining(NamedTuple):
    """How a controller solves at each sample: steps, and how far from where it begins, in half-widths."""

    steps: int
    trust: float


def solver_of(
    critic: AbstractCritic | None, action_set: AbstractActionSet, obs_size: int, refining: Refining
) -> AbstractSolver:
    """The stage that looks for higher values by this critic; a UserError names what no stage can say."""
    if not isinstance(action_set, Box | Increments | Polytope):
        raise UserError(
            f"export: found a {type(action_set).__name__} of actions, and exported solvers search in a box of constant "
            "bounds, also under rate limits, or where fixed inequalities hold; leave refine out, for the policy alone."
        )
    if critic is None:
        raise UserError("export: found no critic, and exported solvers climb one; leave refine out.")
    if critic.action_set != action_set:
        raise UserError("export: found a critic of other actions than the agent's; leave refine out.")
    return improved(critic, action_set, obs_size, refining)


@functools.singledispatch
def improved(
    critic: AbstractCritic, action_set: AbstractActionSet, obs_size: int, refining: Refining
) -> AbstractSolver:
    """The stage for this critic: gradient steps, unless its class registers another one."""
    common: dict[str, Any] = _common(action_set, refining) | {"center": np.asarray(action_set.center, np.float32)}
    common |= {"unit": common["half_width"]}
    if isinstance(action_set, Polytope):
        nowhere = np.zeros((len(common["starts"]), 1), np.float32)
        common["unit"] = np.full_like(common["unit"], step_scale(action_set, nowhere[:1]))
        common["starts"] = np.asarray(action_set.project(common["starts"], nowhere))
        common["nearest"] = nearest_of(action_set)
    return Ascend(critics=critic_lines(critic, action_set, obs_size), obs_size=obs_size, **common)


@improved.register
def _(critic: TreeCritic, action_set: AbstractActionSet, obs_size: int, refining: Refining) -> SearchTrees:
    if isinstance(action_set, Polytope):
        raise UserError(
            "export: found inequalities, and exported looks in trees are along axes of a box; leave refine out."
        )
    child, trees = np.asarray(critic.child), critic.forest.n_trees
    inner = child != np.arange(len(child))
    count = max(trees, int(child[inner].max(initial=0)) + 2 if inner.any() else 0)  # the rest is padding
    return SearchTrees(
        feature=np.asarray(critic.feature)[:count],
        threshold=np.asarray(critic.threshold)[:count],
        child=child[:count],
        value=np.asarray(critic.value)[:count],
        trees=trees,
        depth=int(critic.depth),
        obs_size=obs_size,
        **_common(action_set, refining),
    )


def _common(action_set: AbstractActionSet, refining: Refining) -> dict[str, Any]:
    """What all solvers have."""
    low, high = inwards(np.asarray(action_set.low), np.asarray(action_set.high), np.float32)
    return {
        "starts": spread(action_set),
        "steps": refining.steps,
        "trust": refining.trust,
        "half_width": np.asarray(action_set.half_width, np.float32),
        "low": np.asarray(low),
        "high": np.asarray(high),
        "changes": stretch_of(action_set) if isinstance(action_set, Increments) else None,
    }


def spread(action_set: AbstractActionSet) -> np.ndarray:
    """The middle, and low + (high − low) frac(i φ⁻¹, i φ⁻², …), φ^{m+1} = φ + 1: evenly spread in any dimension."""
    size = action_set.size
    ratio = 1.5
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (size + 1))
    share = (0.5 + np.arange(SPREAD_STARTS)[:, None] / ratio ** np.arange(1, size + 1)) % 1
    low, high = (np.asarray(end, float) for end in (action_set.low, action_set.high))
    return (low + (high - low) * share).astype(np.float32)


@functools.singledispatch
def critic_lines(
    critic: AbstractCritic, action_set: AbstractActionSet, obs_size: int
) -> tuple[tuple[ProgramLine, ...], ...]:
    """Each critic of the ensemble as lines from [s, a in the unit box] to its value."""
    raise UserError(
        f"export: found a critic of class {type(critic).__name__}, whose solver no target can say; exported solvers "
        "climb critics that are networks on [s, a], and search tree ensembles."
    )


@critic_lines.register
def _(critic: QNetwork, action_set: AbstractActionSet, obs_size: int) -> tuple[tuple[ProgramLine, ...], ...]:
    found = []
    for member in range(critic.size):
        draft = Draft(obs_size + action_set.size)
        net = jax.tree.map(lambda leaf, member=member: np.asarray(leaf)[member], critic.net)
        found.append(draft.until(mean_lines(critic.head, draft, network_lines(net, draft, 0))))
    return tuple(found)


@functools.singledispatch
def mean_lines(head: AbstractHead, draft: Draft, outputs: int) -> int:
    """The value that a head makes of its outputs."""
    raise UserError(
        f"export: found critics with the head {type(head).__name__}, and exported solvers climb values, bins "
        "and quantiles; leave refine out, for the policy alone."
    )


@mean_lines.register
def _(head: OneValue, draft: Draft, outputs: int) -> int:
    return outputs


@mean_lines.register
def _(head: Categorical, draft: Draft, outputs: int) -> int:
    return draft.add(Expect(head.support), outputs)


@mean_lines.register
def _(head: Quantiles, draft: Draft, outputs: int) -> int:
    size = head.outputs
    return draft.add(Dense(np.full((size, 1), 1 / size, np.float32), np.zeros(1, np.float32)), outputs)
