"""What each slot of the template reads, in numbers: frozen or live, s or s', solved or not, in which units."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fittedq.acting.noise import explore
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.polytope import Polytope
from fittedq.approx.networks import QNetwork
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, AbstractFollow, Copy, Sync, Update
from fittedq.template.greedy import AbstractGreedy, merged
from fittedq.template.losses import AbstractLoss, Imitate, Imitated, Regress
from fittedq.template.targets import Bellman, FirstCritic, Labelled, MinOverCritics, Quadrature, SmoothBellman
from fittedq.types import AbstractCritic, AbstractPolicy, Components, Greedy, Transition
from methods import built

KEY = jax.random.key_data(jax.random.key(0))
WIDE = Box([-10.0], [30.0])


class Number(AbstractCritic, AbstractPolicy):
    """A component that is one number, as a critic and as a policy."""

    action_set: AbstractActionSet
    value: jax.Array
    has_gradient: ClassVar[bool] = True

    @property
    def size(self):
        return 1

    def __call__(self, obs, action, key=None):
        return jnp.full((1, len(obs)), self.value)

    def subset(self, indices):
        return self

    def act(self, obs, normal):
        return jnp.full(normal.shape, self.value)

    def sample(self, obs, key):
        return jnp.full((len(obs), 1), self.value), jnp.zeros(len(obs))


class Plus(AbstractGreedy):
    """a' = s + the critic it is shown."""

    def __call__(self, nets, obs, key):
        zero = jnp.zeros(obs.shape[0])
        return Greedy(obs + nets.critic.value, zero, zero > 1)


class Towards(AbstractLoss):
    """Half the squared distance to a' and to the value that a frozen component has as labels are made."""

    shown: str = eqx.field(static=True)

    def label(self, nets, batch, greedy, key):
        return greedy.action[:, 0] + 100 * getattr(nets, self.shown).value

    def __call__(self, component, nets, data, key):
        loss = jnp.mean((component.value - data) ** 2) / 2
        return loss, {"label": data[0], "live_critic": nets.critic.value}


def learned(sync: Sync) -> tuple[FQI, object]:
    """Two calls of a template with a critic from 1 and a policy from 2, each moved onto its labels; s = 3, s' = 5."""
    step = Descend(optax.sgd(1.0))
    fqi = FQI((Update("critic", Towards("critic"), step), Update("policy", Towards("policy"), step)), sync, Plus())
    one = np.ones((1, 1), np.float32)
    batch = Transition(3 * one, one, one[:, 0], 5 * one, one[:, 0] > 2, one[:, 0] > 2)
    nets = Components(critic=Number(WIDE, jnp.asarray(1.0)), policy=Number(WIDE, jnp.asarray(2.0)))
    state = fqi.init(nets, KEY, batch)
    for _ in range(2):
        state = fqi.learn(state, batch)
    return fqi, state


class Never(AbstractFollow):
    """θ̄ stays what it was."""

    def rate(self, tick):
        return 0.0


def test_labels_and_the_greedy_step_read_the_frozen_copies():
    """After one call critic = s' + 1 + 100 = 106, and frozen copies that never move still say 1 and 2."""
    _, held = learned(Sync(critic=Never(), policy=Never()))
    assert float(held.nets.critic.value) == 5 + 1 + 100 * 1
    assert float(held.nets.policy.value) == 5 + 1 + 100 * 2
    # With copies that follow, the second call reads the first one's results.
    _, copied = learned(Sync(critic=Copy(), policy=Copy()))
    assert float(copied.nets.critic.value) == 5 + 106 + 100 * 106
    assert float(copied.nets.policy.value) == 5 + 106 + 100 * 206


def test_an_update_sees_what_those_before_it_fitted():
    fqi, state = learned(Sync())
    first = 5 + 1 + 100 * 1
    # Without frozen copies the second call's a' is s' plus the newest critic, and the policy's loss sees the critic
    # that this call fitted.
    second = 5 + first + 100 * first
    assert float(state.nets.critic.value) == second
    assert fqi.logs(state)["policy/live_critic"] == second
    assert fqi.logs(state)["critic/live_critic"] == first


def test_solved_rows_have_the_solvers_action():
    rows = jnp.asarray([True, False, True])
    one, log_prob = jnp.ones((3, 1)), jnp.arange(3.0)
    greedy = merged(rows, Greedy(one, 0 * log_prob, rows), Greedy(2 * one, log_prob, ~rows))
    np.testing.assert_array_equal(greedy.action[:, 0], [1, 2, 1])
    np.testing.assert_array_equal(greedy.log_prob, [0, 1, 0])
    np.testing.assert_array_equal(greedy.solved, rows)


def test_exploration_is_in_half_widths_and_stays_in_the_set():
    """Half-width 20 around 10: noise of a tenth is 2, and −3 of it ends at the bound."""
    action = np.full((2, 1), 10, np.float32)
    noise = np.array([[0.1], [-3.0]], np.float32)
    for xp in (np, jnp):
        explored = explore(xp.asarray(action), xp.asarray(noise), WIDE, xp.asarray(action))
        np.testing.assert_allclose(explored, [[12], [-10]], rtol=1e-6)


class Constant(AbstractPolicy):
    """π(s) = the same action everywhere."""

    action: jax.Array
    action_set: Box

    def act(self, obs, normal):
        return jnp.broadcast_to(self.action, (obs.shape[0], 1))

    def sample(self, obs, key):
        return jnp.broadcast_to(self.action, (obs.shape[0], 1)), jnp.zeros(obs.shape[0])


def test_imitation_is_the_mean_square_over_solved_rows_in_half_widths():
    """Errors of 20, 40 and 100 are 1, 2 and 5 half-widths; the last row is not solved."""
    policy = Constant(action=jnp.asarray([0.0]), action_set=WIDE)
    data = Imitated(jnp.zeros((3, 1)), jnp.asarray([[20.0], [-40.0], [100.0]]), jnp.asarray([1.0, 1.0, 0.0]))
    loss, figures = Imitate()(policy, Components(), data, KEY)
    assert float(loss) == (1 + 4) / 2
    assert abs(float(figures["solved"]) - 2 / 3) < 1e-6
    nothing = Imitated(data.obs, data.action, 0 * data.weight)
    assert float(Imitate()(policy, Components(), nothing, KEY)[0]) == 0


class Levels(AbstractCritic):
    """q_j(s, a) = level_j."""

    level: jax.Array
    action_set: ClassVar[Box] = Box([-1.0], [1.0])
    has_gradient: ClassVar[bool] = True

    @property
    def size(self):
        return self.level.shape[0]

    def __call__(self, obs, action, key=None):
        return jnp.broadcast_to(self.level[:, None], (self.level.shape[0], obs.shape[0]))

    def subset(self, indices):
        return Levels(self.level[indices])


def test_a_subset_holds_no_critic_twice():
    """Of the levels 0, 1, 2 the least of two different ones is 0 or 1; one drawn twice would give 2."""
    one = jnp.zeros((1, 1))
    combine = jax.vmap(lambda key: MinOverCritics(2)(Levels(jnp.arange(3.0)), one, one, key)[0])
    least = np.asarray(combine(jax.random.split(KEY, 100)))
    assert set(least.tolist()) == {0.0, 1.0}


def test_every_member_of_an_ensemble_has_a_loss_of_its_own():
    """Σ_j (q_j − y)² of levels 1, 2 and y = 3: 4 + 1, and slopes 2 (q_j − 3), as of each critic alone."""
    one = jnp.zeros((4, 1))
    data = Labelled((one, one), jnp.full(4, 3.0))
    regress = Regress(Bellman(0.9, FirstCritic()))
    slope, figures = jax.grad(regress, has_aux=True)(Levels(jnp.asarray([1.0, 2.0])), Components(), data, KEY)
    assert float(figures["loss"]) == 5
    np.testing.assert_array_equal(slope.level, [-4, -2])


def test_what_lies_outside_a_polytope_is_no_part_of_the_integral():
    """q ≡ 0 over the half of a square below its diagonal: v = β log 2, where the square's would be β log 4."""
    half = Polytope([-1.0, -1.0], [1.0, 1.0], [[1.0, 1.0]], [1e-6])
    critic = built(QNetwork, 1, half, (2,), KEY)
    critic = jax.tree.map(jnp.zeros_like, critic)
    state, off = jnp.zeros((1, 1)), jnp.zeros(1, bool)
    batch = Transition(state, jnp.zeros((1, 2)), jnp.zeros(1), state, off, off)
    labels = SmoothBellman(0.5, 0.5, Quadrature(33))(Components(critic=critic), batch, None, KEY)
    assert abs(float(labels.y[0]) - 0.5 * 0.5 * np.log(2)) < 0.02
