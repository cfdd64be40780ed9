"""A critic of one's own with its own exact maximizer, used by `explicit_fqi`.

q(s, a) = v(s) − Σ_i p_i(s) (u_i − μ_i(s))², u the action in the unit box, p > 0 (after Gu et al. 2016). Its maximum
over a box is at μ(s), clipped: no search, and a proven bound.
"""

from __future__ import annotations

import sys
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.nn import softplus

import fittedq
from fittedq import AbstractActionSet, AbstractCritic, AbstractMaximizer, Mlp, Solution, Status, exact


class Parabola(AbstractCritic):
    """One network of s gives v, p and μ."""

    net: Mlp
    action_set: AbstractActionSet
    has_gradient: ClassVar[bool] = True

    def __init__(self, obs_size, action_set, key):
        self.net = Mlp((obs_size, 64, 64, 1 + 2 * action_set.size), key)
        self.action_set = action_set

    @property
    def size(self):
        return 1

    def heads(self, obs):
        value, curvature, middle = jnp.split(self.net(obs), [1, 1 + self.action_set.size], axis=-1)
        return value[..., 0], softplus(curvature), middle

    def __call__(self, obs, action, key=None):
        value, curvature, middle = self.heads(jnp.asarray(obs))
        return (value - jnp.sum(curvature * (self.action_set.to_unit(action) - middle) ** 2, axis=-1))[None]

    def subset(self, indices):
        return self


class ParabolaArgmax(AbstractMaximizer[Parabola]):
    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = False

    def __call__(self, critic, obs, action_set, starts=None, key=None):
        action = action_set.project(action_set.from_unit(critic.heads(obs)[2]), obs)
        value = critic.least(obs, action)
        return Solution(action, value, value, jnp.full(value.shape, Status.EXACT, jnp.int32))


@exact.register
def _(critic: Parabola, action_set, effort):
    return ParabolaArgmax() if action_set.separable else None


def log(rows: int) -> fittedq.Dataset:
    """One step, r = −(a − sin s)²: the best action is sin s."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-3, 3, (rows, 1)), rng.uniform(-2, 2, (rows, 1))
    reward, ends = -((action - np.sin(obs))[:, 0] ** 2), np.ones(rows, bool)
    return fittedq.Dataset.from_arrays(
        obs=obs, action=action, reward=reward, next_obs=obs, terminated=ends, action_low=-2, action_high=2
    )


if __name__ == "__main__":
    rows, epochs = (int(word) for word in (sys.argv[1:] or ("2000", "200")))
    agent = fittedq.fit("explicit_fqi", log(rows), steps=1, approximator=Parabola, epochs=epochs)
    obs = np.linspace(-3, 3, 13)[:, None]
    error = np.abs(agent.act(obs) - np.sin(obs)).max()
    print(f"largest error of the greedy action: {error:.3f}")
    agent.save("runs/your-own-critic")
    again = fittedq.load("runs/your-own-critic", code={"approximator": Parabola})
    print(f"loaded with the critic given again: {np.array_equal(again.act(obs), agent.act(obs))}")
