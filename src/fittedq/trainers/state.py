"""The first state of a learner, and states as named arrays and back."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fittedq import memory
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.saved import code_to_act
from fittedq.approx.models import KnownModel
from fittedq.arrays import Arr, Tree, strong
from fittedq.envs.simulator import SimulatorModel
from fittedq.errors import UserError
from fittedq.template.fqi import FQI, LearnerState
from fittedq.template.returned import own_code
from fittedq.trainers.settings import AbstractDrawing
from fittedq.types import Components, DrawnRows, Transition, needed

Arrays = dict[str, np.ndarray]


def initial_state(
    algorithm: AbstractAlgorithm,
    obs_size: int,
    action_set: AbstractActionSet,
    batch_size: int,
    seed: int,
    drawing: AbstractDrawing | None = None,
) -> tuple[FQI, LearnerState]:
    """The template, for batches so drawn, and the first learner state; compiled, since eager initialization takes
    seconds."""
    check_memory(algorithm, obs_size, action_set, batch_size, f" and batch_size = {batch_size:,}")
    fqi = algorithm.template(action_set)
    columns: tuple[str, ...] = ()
    if drawing is not None:
        fqi, columns = drawing.fitting(fqi), drawing.columns(fqi)
    width = Transition.width(obs_size, action_set.size)
    rows = jnp.zeros((batch_size, width + DrawnRows.width(columns, action_set.size)))

    def init(key: Array) -> LearnerState:
        nets_key, learner_key = jax.random.split(key)
        nets = algorithm.networks(obs_size, action_set, nets_key)
        batch, drawn = Transition.unpack(rows, obs_size, action_set.size), DrawnRows.unpack(rows, width, columns)
        if nets.model is not None and nets.model.stored:
            drawn = (drawn or DrawnRows())._replace(state=jnp.zeros((batch_size, nets.model.stored)))
        return strong(fqi.init(nets, learner_key, batch, drawn))

    with own_code():
        state = jax.jit(init)(jax.random.key_data(jax.random.key(seed)))
    if drawing is not None and drawing.rule is not None:
        fqi.check_errors(state)
    return fqi, state


def network_shapes(algorithm: AbstractAlgorithm, obs_size: int, action_set: AbstractActionSet) -> Tree:
    """The shapes of its first components."""
    return jax.eval_shape(lambda: algorithm.networks(obs_size, action_set, jax.random.key_data(jax.random.key(0))))


def check_own_networks(
    algorithm: AbstractAlgorithm, nets: Components, obs_size: int, action_set: AbstractActionSet
) -> None:
    """A UserError where code of the user's makes networks that are no numbers, or others at each call: files would not
    fit them."""
    if not code_to_act(algorithm):
        return
    for name, array in to_arrays("networks", nets).items():
        if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
            raise UserError(f"{algorithm.name}: {name} is not a number where it begins; look at what makes it.")
    first, second = (
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(network_shapes(algorithm, obs_size, action_set))]
        for _ in range(2)
    )
    if first != second:
        raise UserError(
            f"{algorithm.name}: its networks are others each time they are made, so that no file could give them "
            "back; draw what is random in them from the key, and not by np.random."
        )


def check_collects(algorithm: AbstractAlgorithm, nets: Components) -> None:
    """A UserError where a method has no policy, by which an environment is acted in."""
    if nets.policy is None:
        raise UserError(
            f"{algorithm.name}: there is no policy among its components, and one acts in the environment; give it one "
            "(Components(policy=…)), or fit it to a dataset."
        )


def begun_with(fqi: FQI, state: LearnerState, nets: Components) -> LearnerState:
    """A first state with other first components."""
    nets = jax.tree.map(jnp.asarray, nets)
    return dataclasses.replace(state, nets=nets, frozen=fqi.sync.freeze(nets), mean=fqi.first_mean(nets))


def check_memory(
    algorithm: AbstractAlgorithm, obs_size: int, action_set: AbstractActionSet, batch: int, words: str = ""
) -> None:
    """A UserError where the algorithm's networks and a batch of so many rows need more memory than there is."""
    layers = algorithm.layers(obs_size, action_set.size)
    rows = batch * algorithm.template(action_set).actions_at_once(action_set.size)
    size = memory.network_bytes(layers, rows) + 4 * batch * Transition.width(obs_size, action_set.size)
    widths = ", ".join(f"{members:,} of {' × '.join(f'{width:,}' for width in shape)}" for members, shape in layers)
    memory.require(size, f"training networks ({widths}){words}", "choose smaller ones")


def check_model(nets: Components, obs: Float[Arr, "b s"], inner: Tree = None) -> None:
    """Try a known model, if there is one, at first states; `inner` are the environments' own, where they have some."""
    if isinstance(nets.model, SimulatorModel):
        if inner is None:
            raise UserError(
                "setting dynamics: env goes on from states of a JAX environment, which are stored while it is trained "
                "in; train there."
            )
        policy = needed(nets.policy)
        nets.model.check(inner, policy.act(jnp.asarray(obs), jnp.zeros((len(obs), policy.action_set.size))))
    if isinstance(nets.model, KnownModel):
        action_set = needed(nets.policy).action_set
        still = np.zeros((len(obs), action_set.size), np.float32)
        nets.model.check(jnp.asarray(obs), action_set.project(jnp.asarray(still), jnp.asarray(obs)))


def to_arrays(prefix: str, tree: Tree) -> Arrays:
    """Leaves by `prefix/path`, as copies on the host."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.array(leaf) for path, leaf in leaves
    }


def from_arrays(prefix: str, like: Tree, arrays: Arrays) -> Tree:
    """The tree of `like`'s shape from `to_arrays`'s output; a UserError for a missing or mis-shaped leaf."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    values = []
    for path, leaf in leaves:
        name = f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        if name not in arrays:
            raise UserError(f"saved state: {name} is missing; it was saved with other settings or by another version.")
        array = arrays[name]
        if array.shape != np.shape(leaf) or array.dtype != np.asarray(leaf).dtype:
            raise UserError(
                f"saved state: {name} has shape {array.shape} and type {array.dtype}, expected {np.shape(leaf)} and "
                f"{np.asarray(leaf).dtype}; it was saved with other settings."
            )
        values.append(array)
    return jax.tree.unflatten(treedef, values)
