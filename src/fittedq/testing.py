"""What every method must do, whatever it is: a conformance suite for methods outside the package too."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from fittedq.acting.noise import explore
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.agent import Agent
from fittedq.algorithms.base import AbstractAlgorithm, check_saves_whole
from fittedq.approx.host import host_view
from fittedq.arrays import Scalar, Tree
from fittedq.bellman import polyak
from fittedq.code import told
from fittedq.errors import UserError
from fittedq.template.fqi import FQI, LearnerState, Tick
from fittedq.trainers.state import from_arrays, initial_state, to_arrays
from fittedq.types import COMPONENTS, Components, Transition

BATCH = 16
# Neither bound is a float32 number, nor is their sum: rounding must not push an action outside.
BOX = Box((-0.1, -3.0), (0.7, 2.0))


def conforms(algorithm: AbstractAlgorithm, action_set: AbstractActionSet = BOX, obs_size: int = 3) -> None:
    """Raise AssertionError, with a sentence, unless the method does what training relies on.

    Files hold all of its settings. `learn` is pure and deterministic, compiles once, moves what it fits and nothing
    else, and goes on from a saved state bit for bit. Frozen copies follow by the sync rule alone; no gradient passes
    through labels. Actions are finite and inside the set for observations of any size, on the host as on the device.
    Take tiny networks: it compiles two programs.
    """
    if not isinstance(algorithm, AbstractAlgorithm):
        raise UserError(
            f"found {told(algorithm)}, expected a method as an object, such as Mine().", argument="algorithm"
        )
    check_saves_whole(type(algorithm))
    batches = _batches(4, obs_size, action_set)
    fqi, state = initial_state(algorithm, obs_size, action_set, BATCH, seed=1)
    _expect(
        len({_program(fqi, state, batches[0]) for _ in range(2)}) == 1,
        "learn is another program each time it is compiled: a slot reads what changes beside its arguments, such as "
        "np.random; draw from the key that it is given",
    )
    traced: list[int] = []

    def counted(state: LearnerState, batch: Transition) -> LearnerState:
        traced.append(1)
        return fqi.learn(state, batch)

    learn, first = jax.jit(counted), _copy(state)
    states = [state]
    for batch in batches:
        states.append(learn(states[-1], batch))
    _expect(
        len(traced) == 1, f"learn was compiled {len(traced)} times for one shape; shapes and types of its state change"
    )
    _expect(_equal(state, first), "learn changed the state that it was given")
    _expect(_equal(learn(state, batches[0]), states[1]), "learn gave two answers for the same state and batch")
    _expect(int(states[1].step) == int(state.step) + 1, "learn does not count its calls")
    _expect(not _equal(states[0].key, states[1].key), "learn leaves its key as it is: each call draws the same")
    saved = from_arrays("learner", states[2], to_arrays("learner", states[2]))
    _expect(_equal(learn(jax.device_put(saved), batches[2]), states[3]), "a saved state goes on otherwise")
    logs = [fqi.logs(one) for one in states]
    _expect(all(log.keys() == logs[0].keys() for log in logs), "the names of the metrics change from call to call")
    _expect(all(np.isfinite(list(log.values())).all() for log in logs), f"a metric is not finite: {logs[-1]}")
    _check_components(fqi, states)
    _check_labels(fqi, states[1], batches[1])
    if jax.tree.leaves(states[1].frozen):
        far = dataclasses.replace(states[1], frozen=jax.tree.map(lambda leaf: leaf + 0.1, states[1].frozen))
        matter = not _equal(learn(far, batches[1]).nets, states[2].nets)
        _expect(matter, "frozen copies do not matter to what is learned")
    _check_actions(algorithm, states[-1].nets, action_set, obs_size)


def _program(fqi: FQI, state: LearnerState, batch: Transition) -> str:
    return jax.jit(lambda state, batch: fqi.learn(state, batch)).lower(state, batch).as_text()


def _check_components(fqi: FQI, states: list[LearnerState]) -> None:
    fitted = {update.component for update in fqi.updates}
    first, last = states[0].nets.parts(), states[-1].nets.parts()
    for name in COMPONENTS:
        moved = not _equal(first[name], last[name])
        _expect(moved == (name in fitted), f"{name} {'moved' if moved else 'stayed'}, and {sorted(fitted)} are fitted")
        rule, copy = getattr(fqi.sync, name), getattr(states[0].frozen, name)
        _expect(copy is None or _equal(copy, first[name]), f"the frozen {name} starts otherwise than the live one")
        for before, after in itertools.pairwise(states):
            frozen = getattr(after.frozen, name)
            if rule is None:
                _expect(frozen is None, f"{name} has a frozen copy and no sync rule")
                continue
            rate = rule.rate(Tick(after.step))
            expected = polyak(getattr(before.frozen, name), getattr(after.nets, name), rate)
            near = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-5, atol=1e-6), frozen, expected)
            _expect(jax.tree.all(near), f"the frozen {name} does not follow by its sync rule")


def _check_labels(fqi: FQI, state: LearnerState, batch: Transition) -> None:
    """New parameters depend on the frozen ones through labels alone, so their derivative in them is zero."""

    def new_parameters(frozen: Components) -> Scalar:
        nets = fqi.learn(dataclasses.replace(state, frozen=frozen), batch).nets
        return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(nets)), start=0.0)

    slopes = jax.tree.leaves(jax.jit(jax.grad(new_parameters))(state.frozen))
    _expect(all(bool((slope == 0).all()) for slope in slopes), "a gradient passes through the labels")


def _check_actions(
    algorithm: AbstractAlgorithm, nets: Components, action_set: AbstractActionSet, obs_size: int
) -> None:
    eye = np.eye(obs_size, dtype=np.float32)
    extreme = np.concatenate([scale * eye for scale in (0.0, 1e3, -1e3, 1e6, -1e6, 1e12)])
    noise = np.random.default_rng(0).normal(size=(len(extreme), action_set.size)).astype(np.float32)
    try:
        mode = Agent(algorithm, obs_size, action_set, nets).act(extreme)
    except UserError as error:
        raise AssertionError(str(error)) from error
    explored = explore(algorithm.controller(nets).act(extreme, noise), noise, action_set, extreme)
    for words, action in (("an action", mode), ("an explored action", explored)):
        _expect(bool(np.isfinite(action).all()), f"{words} is not finite")
        _expect(bool(np.all(action_set.contains(np.asarray(action), extreme))), f"{words} lies outside the action set")
    if nets.policy is not None:
        obs = np.random.default_rng(1).normal(size=(BATCH, obs_size)).astype(np.float32)
        normal = np.random.default_rng(2).normal(size=(BATCH, action_set.size)).astype(np.float32)
        device = np.asarray(nets.policy.act(jnp.asarray(obs), jnp.asarray(normal)))
        host = host_view(nets.policy).act(obs, normal)
        _expect(np.allclose(host, device, rtol=1e-4, atol=1e-5), "the policy acts otherwise on the host")


def _batches(count: int, obs_size: int, action_set: AbstractActionSet) -> list[Transition]:
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, count, BATCH, obs_size)).astype(np.float32)
    unit = rng.uniform(-0.9, 0.9, (count, BATCH, action_set.size)).astype(np.float32)
    reward = rng.normal(size=(count, BATCH)).astype(np.float32)
    terminated, truncated = rng.uniform(size=(2, count, BATCH)) < 0.2
    rows = []
    for index in range(count):
        action = np.asarray(action_set.project(action_set.from_unit(unit[index]), obs[index]))
        one = (obs[index], action, reward[index], next_obs[index], terminated[index], truncated[index])
        rows.append(Transition(*map(jnp.asarray, one)))
    return rows


def _copy(tree: Tree) -> Tree:
    return jax.tree.map(np.array, tree)


def _equal(one: Tree, other: Tree) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def _expect(held: bool, sentence: str) -> None:
    if not held:
        raise AssertionError(f"{sentence}.")
