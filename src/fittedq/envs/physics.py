"""Simulators written in JAX as environments of known physics: MuJoCo models through MJX, and Brax environments.

Both are an extra (`pip install 'fittedq[physics]'`), and are imported where they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fittedq.actions.base import Box
from fittedq.arrays import Scalar, Tree
from fittedq.envs.native import AbstractPhysics
from fittedq.errors import UserError


def _mjx() -> ModuleType:
    try:
        from mujoco import mjx
    except ImportError:
        raise UserError("MJX is not installed; pip install 'fittedq[physics]'.") from None
    return mjx


Reward = Callable[[Float[Array, "s"], Float[Array, "m"], Float[Array, "s"]], Scalar]
"""r(s, a, s')."""
Terminates = Callable[[Float[Array, "s"]], Bool[Array, ""] | bool]


class MjxEnv(AbstractPhysics[Array]):
    """[q', q̇'] = `frame_skip` steps of MuJoCo's equations of motion from [q, q̇] under a, r = reward(s, a, s').

    Observation [q, q̇], where each joint angle of `angles` is observed as its cosine and sine. Actions lie in the
    actuators' control ranges. `reward` and `terminates` are functions of single observations in `jax.numpy`; `spread`
    is how far q and q̇ of a first state may lie from the model's own reference. Muscles and other actuators with a state
    of their own are refused: an observation would not hold it.
    """

    _model: Tree
    _start: Tree
    _box: Box = eqx.field(static=True)
    reward: Reward = eqx.field(static=True)
    terminates: Terminates = eqx.field(static=True)
    frame_skip: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    spread: float = eqx.field(static=True)
    angles: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        model: Any,
        reward: Reward,
        *,
        terminates: Terminates = lambda obs: False,
        frame_skip: int = 1,
        steps: int = 200,
        spread: float = 0.05,
        angles: Sequence[int] = (),
    ):
        mjx = _mjx()
        if model.na:
            raise UserError(f"MuJoCo model: found {model.na} actuators with a state of their own, expected none.")
        limited = np.asarray(model.actuator_ctrllimited, bool)
        if not limited.all():
            raise UserError(
                f"MuJoCo model: actuator {int(np.argmin(limited))} has no ctrlrange; give each actuator one."
            )
        self._box = Box(model.actuator_ctrlrange[:, 0], model.actuator_ctrlrange[:, 1])
        try:
            self._model = mjx.put_model(model)
            self._start = mjx.make_data(self._model)
        except NotImplementedError as error:
            raise UserError(f"MuJoCo model: MJX does not have all it uses ({error}); simplify the model.") from None
        self.reward, self.terminates = reward, terminates
        self.frame_skip, self.steps, self.spread, self.angles = frame_skip, steps, spread, tuple(angles)

    @property
    def obs_size(self) -> int:
        return self._model.nq + len(self.angles) + self._model.nv

    @property
    def action_set(self) -> Box:
        return self._box

    @property
    def episode_length(self) -> int:
        return self.steps

    def begin(self, key: PRNGKeyArray) -> Float[Array, "x"]:
        near = jax.random.uniform(key, (self._model.nq + self._model.nv,), minval=-self.spread, maxval=self.spread)
        return jnp.concatenate([self._start.qpos, self._start.qvel]) + near

    def observe(self, inner: Float[Array, "x"]) -> Float[Array, "s"]:
        plain = [index for index in range(inner.shape[0]) if index not in self.angles]
        angle = inner[jnp.array(self.angles, int)]
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle), inner[jnp.array(plain)]])

    def recall(self, obs: Float[Array, "s"]) -> Float[Array, "x"]:
        turned = len(self.angles)
        plain = [index for index in range(self._model.nq + self._model.nv) if index not in self.angles]
        inner = jnp.zeros(self._model.nq + self._model.nv, obs.dtype).at[jnp.array(plain)].set(obs[2 * turned :])
        angle = jnp.arctan2(obs[turned : 2 * turned], obs[:turned])
        return inner.at[jnp.array(self.angles, int)].set(angle)

    def transition(
        self, inner: Float[Array, "x"], action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "x"], Float[Array, ""], Bool[Array, ""]]:
        mjx, joints = _mjx(), self._model.nq
        data = self._start.replace(qpos=inner[:joints], qvel=inner[joints:], ctrl=self._box.project(action, inner))
        # A loop, not its steps written out: MJX takes XLA long to compile.
        data, _ = jax.lax.scan(lambda data, _: (mjx.step(self._model, data), None), data, None, self.frame_skip)
        after = jnp.concatenate([data.qpos, data.qvel])
        obs, next_obs = self.observe(inner), self.observe(after)
        reward = jnp.asarray(self.reward(obs, action, next_obs), obs.dtype)
        return after, reward, jnp.asarray(self.terminates(next_obs), bool)


class BraxEnv(AbstractPhysics[Tree]):
    """A Brax environment (`brax.envs.get_environment(name)`), observed as [q, q̇] so that its step is a known function.

    Its own rewards and terminations; actions in [−1, 1]^m. What Brax wraps around environments (episode ends, resets,
    batches) is done here, so give it bare.
    """

    _env: Any = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __init__(self, env: Any, *, steps: int = 1000):
        missing = [name for name in ("pipeline_init", "reset", "step", "action_size", "sys") if not hasattr(env, name)]
        if missing:
            raise UserError(
                f"BraxEnv: found {type(env).__name__} without {', '.join(missing)}; give a bare Brax environment, as "
                "brax.envs.get_environment(name) makes it."
            )
        self._env, self.steps = env, steps

    @property
    def obs_size(self) -> int:
        return self._env.sys.q_size() + self._env.sys.qd_size()

    @property
    def action_set(self) -> Box:
        return Box([-1.0] * self._env.action_size, [1.0] * self._env.action_size)

    @property
    def episode_length(self) -> int:
        return self.steps

    def begin(self, key: PRNGKeyArray) -> Tree:
        return self._env.reset(key)

    def observe(self, inner: Tree) -> Float[Array, "s"]:
        return jnp.concatenate([inner.pipeline_state.q, inner.pipeline_state.qd])

    def recall(self, obs: Float[Array, "s"]) -> Tree:
        joints = self._env.sys.q_size()
        blank = self._env.reset(jax.random.PRNGKey(0))
        return blank.replace(pipeline_state=self._env.pipeline_init(obs[:joints], obs[joints:]))

    def transition(
        self, inner: Tree, action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[Tree, Float[Array, ""], Bool[Array, ""]]:
        after = self._env.step(inner, jnp.clip(action, -1.0, 1.0))
        return after, jnp.asarray(after.reward), jnp.asarray(after.done) > 0.5


CART_POLE = """
<mujoco>
  <option timestep="0.025" gravity="0 0 -9.81"><flag contact="disable"/></option>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0" damping="0.1"/>
      <geom type="box" size="0.2 0.1 0.1" mass="1"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" damping="0.001"/>
        <geom type="capsule" fromto="0 0 0 0 0 -1" size="0.04" mass="0.1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="slide" ctrlrange="-10 10"/></actuator>
</mujoco>
"""


def mjx_cart_pole() -> MjxEnv:
    """Swing a pole up and hold it above the middle of the track: r = exp(−(x/2)²) (1 − cos θ) / 2.

    It hangs at θ = 0. Observation [cos θ, sin θ, x, ẋ, θ̇]; 200 steps of 0.05 s under a force of at most 10 N on the
    cart. Leaving the track (|x| > 3 m) ends the episode; rewards are never negative, so that an end is never a way out.
    """
    _mjx()
    mujoco = import_module("mujoco")

    def reward(obs: Float[Array, "s"], action: Float[Array, "m"], next_obs: Float[Array, "s"]) -> Float[Array, ""]:
        return jnp.exp(-((next_obs[2] / 2.0) ** 2)) * (1.0 - next_obs[0]) / 2.0

    def terminates(obs: Float[Array, "s"]) -> Bool[Array, ""]:
        return jnp.abs(obs[2]) > 3.0

    return MjxEnv(
        mujoco.MjModel.from_xml_string(CART_POLE), reward, terminates=terminates, frame_skip=2, spread=0.1, angles=(1,)
    )
