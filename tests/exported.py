"""Agents to export: small, with random numbers in all that is learned."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from fittedq import algorithms
from fittedq.acting.loop import SafeLoop
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.agent import Agent
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.baselines import LQR, PID, Loops, Tracked
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.data.statistics import RunningMoments
from fittedq.export.program import ControlProgram
from fittedq.export.structured_text import Signal, structured_text
from fittedq.types import Components

BOX = Box((-2.0, -1.0), (2.0, 3.0))
TRIANGLE = Polytope((-2.0, -1.0), (2.0, 3.0), [[1.0, 1.0], [-1.0, 0.5]], [3.0, 1.5])
WHOLE = Mixed(BOX, (1,))
MEMORY = Augmentation(
    history=3, error=("0:2", "1=0.5"), integral=("0:2",), integral_limit=0.3, rate_limit=(0.25, 0.5), sample=0.1
)


def agent_in(
    name: str = "td3", action_set: AbstractActionSet = BOX, added: Augmentation | None = None, **settings: Any
):
    """An agent with random weights, biases, gains and moments of all networks."""
    memory = None if added is None else AugmentedState(added, 3, action_set)
    size, action_set = (3, action_set) if memory is None else (memory.size, memory.action_set)
    method, rng = algorithms.find(name)(**{"hidden": (8, 8), **settings}), np.random.default_rng(1)

    def drawn(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        array = rng.normal(0.1, 0.4, leaf.shape).astype(leaf.dtype)
        return np.abs(array) if "variance" in jax.tree_util.keystr(path) else array

    shapes = eqx.filter_eval_shape(method.networks, size, action_set, jax.random.key(1))
    moments = RunningMoments.start(size, action_set.reads or ()).update(rng.normal(1, 3, (50, size)).astype(np.float32))
    nets = jax.tree_util.tree_map_with_path(drawn, shapes)
    return Agent(method, size, action_set, nets, moments, augmented=memory)


def tree_agent(action_set: AbstractActionSet = BOX, added: Augmentation | None = None, number: int = 300) -> Agent:
    """An agent whose critic is a small ensemble of trees, fitted to a bowl and a wave."""
    memory = None if added is None else AugmentedState(added, 3, action_set)
    size, action_set = (3, action_set) if memory is None else (memory.size, memory.action_set)
    method = algorithms.find("explicit_fqi")(approximator="extra_trees", n_trees=5, min_samples_leaf=3)
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(number, size))
    action = rng.uniform(action_set.low, action_set.high, (number, action_set.size))
    y = np.sin(3 * obs[:, 0]) - ((action - obs[:, : action_set.size]) ** 2).sum(axis=1)
    critic = TreeCritic.start(action_set, Forest("extra_trees", n_trees=5, min_samples_leaf=3, n_jobs=1))
    nets = Components(critic=critic.fit((obs, action), y))
    moments = RunningMoments.start(size, action_set.reads or ()).update(rng.normal(1, 3, (50, size)).astype(np.float32))
    return Agent(method, size, action_set, nets, moments, augmented=memory)


AGENTS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ("td3", "sac", "iql", "simba", "simba_v2", "td7", "crossq", "xqc")},
    **{word: {"activation": word} for word in ("leaky_relu", "silu", "gelu", "softplus", "elu", "tanh")},
    "function": {"activation": jax.nn.silu},
    "polytope": {"action_set": TRIANGLE},
    "whole": {"action_set": WHOLE},
    "memory": {"added": MEMORY},
    "history": {"added": Augmentation(history=4, error=("1:0",))},
}


def readings(count: int) -> np.ndarray:
    """Observations of all sizes, some of them not finite; the first of an episode is huge."""
    rng = np.random.default_rng(0)
    obs = rng.normal(0, 3, (count, 3)) * 10.0 ** rng.integers(-3, 3, (count, 1))
    obs[0] = [-3e38, 3e38, 3e38]
    for row, value in zip(range(5, count, 9), [np.nan, np.inf, -np.inf, 3e38, 1e-40] * count, strict=False):
        obs[row, row % 3] = value
    return obs.astype(np.float32)


PI = PID(0.8, 0.5, 0.1, tracked=Tracked(0, setpoint=2), low=-2.0, high=2.0, dt=0.1)
LEAK = PID(-0.6, -0.4, tracked=Tracked(1, target=0.5), low=-1.0, high=2.5, dt=0.1, tracking_time=0.5)
REGULATOR = LQR(
    gain=np.array([[0.9, 0.2], [-0.3, 0.8]]),
    cost=np.eye(2),
    rest=np.array([0.1, -0.2, 0.3, 0.4]),
    per_setpoint=np.array([[0.5], [0.2], [0.2], [-0.1]]),
    states=(0, 1),
    tracked=(Tracked(0, setpoint=2),),
    action_set=BOX,
)
GUARDED: dict[str, dict[str, Any]] = {
    "action": {"fallback": [1.0, 2.0]},
    "hold": {"fallback": "hold"},
    "loops": {"fallback": Loops({0: PI, 1: LEAK}, (0.0, 0.0))},
    "regulator": {"fallback": REGULATOR},
    "polytope": {"fallback": Loops({1: LEAK}, (1.5, 0.0)), "action_set": TRIANGLE},
    "memory": {"fallback": Loops({0: PI}, (0.0, 0.5)), "added": MEMORY},
    "changes": {"fallback": [0.1, -0.05], "added": MEMORY},
    "held": {"fallback": "hold", "added": Augmentation(history=4, error=("1:0",))},
    "window": {"fallback": [1.0, 2.0], "window": 6},
    "window of a memory": {"fallback": Loops({0: PI}, (0.0, 0.5)), "window": 4, "added": MEMORY},
    "lag": {"fallback": "hold", "added": Augmentation(change_penalty=0.1)},
}


def plant_rows(number: int = 400) -> Dataset:
    """y' = 0.9 y + 0.1 u and some noise in two coordinates, the third a set-point."""
    rng = np.random.default_rng(2)
    obs, action = np.zeros((number + 1, 3), np.float32), rng.uniform(BOX.low, BOX.high, (number, 2)).astype(np.float32)
    for row in range(number):
        obs[row + 1, :2] = 0.9 * obs[row, :2] + 0.1 * action[row] + rng.normal(0, 0.05, 2)
        obs[row + 1, 2] = (row // 40) % 3
    flags = np.zeros(number, bool)
    return Dataset.from_arrays(
        obs=obs[:-1], action=action, reward=flags, next_obs=obs[1:], terminated=flags, action_low=-3, action_high=3
    )


def guarded_in(fallback: object, threshold: float = 0.05, window: int = 0, **of: Any) -> Agent:
    """One of these agents beside a fallback."""
    agent = agent_in(**of)
    agent.familiarity = agent.known_by(plant_rows(), window=window)
    agent.fallback, agent.threshold = fallback, threshold
    return agent


def driven(loop: SafeLoop, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(observations, where an episode begins) of the plant with this loop on it, readings of another world and dead
    ones between them."""
    rng, found = np.random.default_rng(3), []
    begins = np.arange(number) % 22 == 0
    y = np.zeros(3, np.float32)
    for row in range(number):
        if begins[row]:
            loop.reset()
            y = np.zeros(3, np.float32)
        obs = y.copy()
        if row % 29 == 28:
            obs[row % 3] += rng.choice([0.7, 5.0, 1e20])
        if row % 37 == 36:
            obs[row % 3] = np.nan
        u, _ = loop.step(obs)
        found.append(obs)
        y[:2] = np.clip(0.9 * y[:2] + 0.1 * np.asarray(u, np.float32) + rng.normal(0, 0.05, 2), -4, 4)
        y[2] = (row // 40) % 3
    return np.array(found), begins


def block_text(program: ControlProgram) -> str:
    """A block in Structured Text, its signals y0, … and u0, …."""
    observations = [Signal(f"y{place}", "") for place in range(program.obs_size)]
    return structured_text(program, observations, [Signal(f"u{place}", "") for place in range(program.action_size)], "")


SOLVING: dict[str, dict[str, Any]] = {
    "relu": {},
    "tanh": {"activation": "tanh"},
    "norm": {"activation": "elu", "layer_norm": True},
    "residual": {"name": "simba", "activation": "silu"},
    "unit length": {"name": "simba_v2", "activation": "gelu"},
    "batch norm": {"name": "crossq", "activation": "leaky_relu"},
    "quantiles": {"name": "tqc", "activation": "softplus"},
    "no policy": {"name": "explicit_fqi", "activation": "tanh"},
    "history": {"name": "sac", "added": Augmentation(history=2, error=("1:0",))},
    "changes": {"activation": "tanh", "added": MEMORY},
    "changes without a policy": {"name": "explicit_fqi", "activation": "tanh", "added": MEMORY},
    "polytope": {"activation": "tanh", "action_set": TRIANGLE},
    "polytope without a policy": {"name": "explicit_fqi", "activation": "tanh", "action_set": TRIANGLE},
}
"""Agents whose solver is exported."""
