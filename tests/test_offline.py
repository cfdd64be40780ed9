"""Methods that learn from a log and stay near it: their losses against closed forms, and what they reduce to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms import CQL, EDAC, IQL, SAC, TD3, TD3BC, AmortizedFQI, ExplicitFQI, ReBRAC
from fittedq.approx.networks import ClippedGaussianPolicy, TanhGaussianPolicy
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.problems.probes import Endless
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.template.fqi import FQI, Copy, LearnerState, Sync
from fittedq.template.greedy import Solved
from fittedq.template.losses import AbstractPenalty, Expectile, Improve, Regress
from fittedq.template.near import ImitateByAdvantage, ImproveNear
from fittedq.template.penalties import Conservative, Diverse
from fittedq.template.support import NearLog, Support
from fittedq.template.targets import (
    BellmanFromValue,
    BellmanNear,
    FirstCritic,
    Labelled,
    MinOverCritics,
    Quadrature,
    SmoothBellman,
    ValueAsLogged,
)
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.drawing import Drawing
from fittedq.trainers.settings import FitSettings, TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import AbstractValue, Components, DrawnRows, Greedy, Transition
from linear import QuadraticValue, critic, gaussian_policy, transitions
from methods import made

BOX = Box((-1.0, 0.0), (1.0, 3.0))
OBS_SIZE, BATCH = 3, 32
KEY = jax.random.PRNGKey(5)
TINY = {"hidden": (8, 8), "policy_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "tau": 0.05, "gamma": 0.9}


def batches(count: int) -> list[Transition]:
    """Random transitions whose actions lie in the box."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, BATCH, Transition.width(OBS_SIZE, BOX.size))).astype(np.float32)
    rows[..., -2:] = rng.uniform(size=rows[..., -2:].shape) < 0.2
    data = [Transition.unpack(batch, OBS_SIZE, BOX.size) for batch in rows]
    data = [batch._replace(action=BOX.project(batch.action, batch.obs)) for batch in data]
    return [jax.tree.map(jnp.asarray, batch) for batch in data]


def run(fqi: FQI, state: LearnerState, data: list[Transition]) -> LearnerState:
    learn = jax.jit(fqi.learn)
    for batch in data:
        state = learn(state, batch)
    return state


def largest(one, other) -> float:
    """The largest absolute difference of two trees."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)))) for a, b in pairs)


@eqx.filter_jit
def slope(loss, component, nets, data):
    """∇ loss of the component, on D."""
    return jax.grad(lambda component: loss(component, nets, data, KEY)[0])(component)


@eqx.filter_jit
def label(loss, nets, batch):
    """D, of a loss that reads no greedy step."""
    return loss.label(nets, batch, None, KEY)


# ---------------------------------------------------------------------- expectiles and imitation


class Constant(AbstractValue):
    """v ≡ c."""

    value: jax.Array

    def __call__(self, obs, key=None):
        return jnp.broadcast_to(self.value, obs.shape[:1])


@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_an_expectile_of_two_points_is_where_its_pulls_are_even(share):
    """y = 1 with probability 1/4, else 0: τ ¼ (1 − v) = (1 − τ) ¾ v, so v = τ / (τ + 3 (1 − τ)); the mean for ½."""
    expected = share / (share + 3 * (1 - share))
    batch = transitions(np.zeros(4), [1.0, 0.0, 0.0, 0.0], 0.0, 0.0)
    nets = Components(critic=critic((0, 0, 1, 0, 0, 0)))  # q = a
    loss = Regress(ValueAsLogged(MinOverCritics()), Expectile(share))
    data = label(loss, nets, batch)
    at, below, above = (
        float(slope(loss, Constant(jnp.asarray(v)), nets, data).value) for v in expected * np.array([1, 0.9, 1.1])
    )
    assert abs(at) < 1e-6
    assert below < -1e-3 and above > 1e-3


def test_an_expectile_of_a_half_evaluates_the_logs_own_policy():
    """a = −K s ± σ on an LQR: v = −P_K s² − c_K and q = r + γ v(s') leave no loss a slope, at τ = ½ alone."""
    gamma, gain, sigma = 0.9, 0.3, 0.2
    s = np.repeat(np.linspace(-1, 1, 9), 2)
    a = -gain * s + sigma * np.tile([1.0, -1.0], 9)
    batch = transitions(s, a, -(s**2) - a**2, s + a)
    price = (1 + gain**2) / (1 - gamma * (1 - gain) ** 2)
    constant = (1 + gamma * price) * sigma**2 / (1 - gamma)
    value = QuadraticValue(jnp.asarray([-constant, -price]))
    q = critic((-gamma * constant, 0, 0, -1 - gamma * price, -2 * gamma * price, -1 - gamma * price))
    nets = Components(critic=q, value=value)
    regress = Regress(BellmanFromValue(gamma))
    assert float(jax.jit(lambda: regress(q, nets, regress.label(nets, batch, None, KEY), KEY)[0])()) < 1e-9

    def pull(share):
        loss = Regress(ValueAsLogged(MinOverCritics()), Expectile(share))
        return float(np.abs(slope(loss, value, nets, label(loss, nets, batch)).weights).max())

    assert pull(0.5) < 1e-5
    assert pull(0.7) > 1e-2


def test_imitation_by_advantage_is_best_at_the_weighted_mean_and_deviation():
    """Actions of weights w_i = exp(k A_i), the last clipped: the best normal density has their weighted moments."""
    action = np.array([-0.6, 0.1, 0.5])
    batch = transitions(np.zeros(3), action, 0.0, 0.0)
    nets = Components(critic=critic((0, 0, 2, 0, 0, 0)), value=Constant(jnp.asarray(0.3)))  # q = 2 a
    loss = ImitateByAdvantage(MinOverCritics(), inverse_temperature=1.5, clip=2.0)
    data = label(loss, nets, batch)
    weight = np.minimum(np.exp(1.5 * (2 * action - 0.3)), 2.0)
    np.testing.assert_allclose(data.weight, weight, rtol=1e-6)
    assert weight[-1] == 2.0 > weight[1]
    mean = np.average(action, weights=weight)
    std = np.sqrt(np.average((action - mean) ** 2, weights=weight))
    policy = jax.jit(lambda key: ClippedGaussianPolicy(1, Box((-1.0,), (1.0,)), (), key))(KEY)
    at_best = eqx.tree_at(
        lambda policy: (policy.net.biases[0], policy.log_std),
        policy,
        (jnp.asarray([[np.arctanh(mean)]], jnp.float32), jnp.asarray([np.log(std)], jnp.float32)),
    )
    found = slope(loss, at_best, nets, data)
    assert largest((found.net.biases, found.log_std), ((np.zeros((1, 1)),), np.zeros(1))) < 1e-5
    elsewhere = eqx.tree_at(lambda policy: policy.log_std, at_best, jnp.asarray([np.log(1.2 * std)], jnp.float32))
    assert float(slope(loss, elsewhere, nets, data).log_std[0]) > 0.1


def test_advantages_that_no_exponential_holds_are_clipped():
    nets = Components(critic=critic((0, 0, 1e6, 0, 0, 0)), value=Constant(jnp.asarray(0.0)))
    batch = transitions(np.zeros(2), [1.0, -1.0], 0.0, 0.0)
    data = label(ImitateByAdvantage(MinOverCritics(), 3.0, 100.0), nets, batch)
    np.testing.assert_allclose(data.weight, [100.0, 0.0], rtol=1e-5)


@pytest.mark.parametrize("make", [ClippedGaussianPolicy, TanhGaussianPolicy])
def test_a_density_integrates_to_one_and_is_that_of_the_policys_own_draws(make):
    box = Box((-0.5,), (3.0,))
    squashed = make is TanhGaussianPolicy
    edges = np.linspace(*((-0.5 + 1e-4, 3.0 - 1e-4) if squashed else (-12.0, 15.0)), 20_001)

    @jax.jit
    def told(key):
        policy, obs = make(1, box, (4,), key), jnp.linspace(-1, 1, 64)[:, None]
        action, log_prob = policy.sample(obs, key)
        everywhere = policy.log_density(jnp.full((len(edges), 1), 0.7), jnp.asarray(edges, jnp.float32)[:, None])
        return jnp.exp(everywhere), action, log_prob, policy.log_density(obs, action)

    density, action, log_prob, of_draws = map(np.asarray, told(KEY))
    assert float(np.trapezoid(density, edges)) == pytest.approx(1.0, abs=0.02 if squashed else 1e-4)
    inside = ((action > -0.49) & (action < 2.99))[:, 0]
    assert inside.sum() > 20
    np.testing.assert_allclose(of_draws[inside], log_prob[inside], rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------- what they reduce to


@pytest.fixture(scope="module")
def networks() -> Components:
    return made(TD3(**TINY), OBS_SIZE, BOX, KEY)


def test_without_q_the_policy_clones_the_log(networks):
    (batch,) = batches(1)

    def cloned(policy):
        error = (policy.act(batch.obs, batch.action) - batch.action) / jnp.asarray(BOX.half_width)
        return jnp.mean(error**2)

    (update,) = (update for update in TD3BC(**TINY, alpha=0.0).template(BOX).updates if update.component == "policy")
    found = slope(update.loss, networks.policy, networks, label(update.loss, networks, batch))
    assert largest(found, jax.jit(jax.grad(cloned))(networks.policy)) < 1e-7
    assert largest(found, jax.tree.map(np.zeros_like, found)) > 1e-2


def test_the_more_q_counts_the_more_it_is_td3(networks):
    """∇ / (α / Z) → ∇ of TD3's loss, as 1 / α."""
    (batch,) = batches(1)
    td3 = slope(Improve(FirstCritic()), networks.policy, networks, batch.obs)
    q = jax.jit(lambda nets: FirstCritic()(nets.critic, batch.obs, nets.policy.act(batch.obs, batch.action), KEY))
    size, away = np.mean(np.abs(q(networks))), []
    for alpha in (1e3, 1e5):
        loss = ImproveNear(FirstCritic(), alpha, 1 / BOX.size)
        found = slope(loss, networks.policy, networks, label(loss, networks, batch))
        scaled = jax.tree.map(lambda leaf, alpha=alpha: np.asarray(leaf) * size / alpha, found)
        away.append(largest(scaled, td3))
    assert away[1] < 1e-4 and away[0] > 20 * away[1]


def test_without_the_distance_it_is_td3_bit_for_bit(networks):
    data = batches(6)
    fqi, state = initial_state(TD3(**TINY), OBS_SIZE, BOX, BATCH, seed=3)
    near = ImproveNear(FirstCritic(), 1.0, 0.0, normalized=False)
    updates = (fqi.updates[0], dataclasses.replace(fqi.updates[1], loss=near))
    other = dataclasses.replace(fqi, updates=updates)
    one = run(fqi, state, data)
    two = run(other, other.init(state.nets, state.key, data[0]), data)
    assert largest((one.nets, one.frozen), (two.nets, two.frozen)) == 0.0
    pulled = run(*initial_state(TD3BC(**TINY), OBS_SIZE, BOX, BATCH, seed=3), data)
    assert largest(pulled.nets.policy, one.nets.policy) > 1e-5


def test_the_unit_of_reward_does_not_matter_to_the_policys_loss(networks):
    (batch,) = batches(1)
    loss = ImproveNear(FirstCritic(), 2.5, 0.5)
    data = label(loss, networks, batch)
    last = lambda nets: (nets.critic.net.weights[-1], nets.critic.net.biases[-1])  # noqa: E731
    larger = eqx.tree_at(last, networks, tuple(jnp.asarray(100 * np.asarray(leaf)) for leaf in last(networks)))
    found = [slope(loss, networks.policy, nets, data) for nets in (networks, larger)]
    assert largest(*found) < 1e-5


@pytest.mark.slow
def test_cql_without_its_penalty_is_sac_bit_for_bit():
    data = batches(4)
    sac = run(*initial_state(SAC(**TINY), OBS_SIZE, BOX, BATCH, seed=3), data)
    cautious = {alpha: CQL(**TINY, alpha=alpha, n_actions=2, soft_targets=True) for alpha in (0.0, 1.0)}
    plain, pushed = (run(*initial_state(cautious[alpha], OBS_SIZE, BOX, BATCH, seed=3), data) for alpha in (0.0, 1.0))
    assert largest((plain.nets, plain.frozen), (sac.nets, sac.frozen)) == 0.0
    assert largest(pushed.nets.critic, sac.nets.critic) > 1e-4


@pytest.mark.slow
def test_edac_without_diversity_is_sac_with_as_many_critics_bit_for_bit():
    data = batches(4)
    sac = run(*initial_state(SAC(**TINY, n_critics=3, n_target_critics=3), OBS_SIZE, BOX, BATCH, seed=3), data)
    many = {eta: EDAC(**TINY, policy_hidden=(8, 8), n_critics=3, eta=eta) for eta in (0.0, 1.0)}
    plain, diverse = (run(*initial_state(many[eta], OBS_SIZE, BOX, BATCH, seed=3), data) for eta in (0.0, 1.0))
    assert largest((plain.nets, plain.frozen), (sac.nets, sac.frozen)) == 0.0
    assert largest(diverse.nets.critic, sac.nets.critic) > 1e-4


@pytest.mark.slow
def test_rebrac_without_its_distances_is_td3_bit_for_bit():
    """Also where the rows tell what was done at s'."""
    data = batches(6)
    td3 = run(*initial_state(TD3(**TINY), OBS_SIZE, BOX, BATCH, seed=3), data)
    alike = {**TINY, "layer_norm": False, "policy_critic": "first", "policy_near": 0.0, "normalize_q": False}
    drawn = DrawnRows(next_action=data[0].action)

    def after(near: float) -> LearnerState:
        algorithm = ReBRAC(**alike, critic_near=near)
        fqi, state = initial_state(algorithm, OBS_SIZE, BOX, BATCH, seed=3, drawing=FitSettings(batch_size=BATCH))
        learn = jax.jit(lambda state, batch: fqi.learn(state, batch, drawn=drawn))
        for batch in data:
            state = learn(state, batch)
        return state

    plain, near = after(0.0), after(1.0)
    assert largest((plain.nets, plain.frozen), (td3.nets, td3.frozen)) == 0.0
    assert largest(near.nets.critic, td3.nets.critic) > 1e-4


def test_a_target_takes_off_the_distance_to_what_was_done_next():
    """q ≡ 2, β = 3: a' = .5 and 0 logged, then unknown, then terminated."""
    nets = Components(critic=critic((2, 0, 0, 0, 0, 0)), policy=gaussian_policy(0.0, 0.1))
    batch = transitions(np.zeros(3), 0.0, 1.0, 0.0, terminated=[False, False, True])
    logged = jnp.asarray(np.float32([[0.0], [np.nan], [0.0]]))
    half, none = jnp.asarray(np.full((3, 1), 0.5, np.float32)), jnp.asarray(np.zeros(3, np.float32))
    greedy = Greedy(half, none, jnp.asarray(np.zeros(3, bool)), logged=logged)
    y = jax.jit(lambda greedy: BellmanNear(0.9, FirstCritic(), near=3.0)(nets, batch, greedy, KEY).y)
    np.testing.assert_allclose(y(greedy), [2.8 - 0.9 * 3 * 0.25, 2.8, 1.0], rtol=1e-6)
    np.testing.assert_allclose(y(dataclasses.replace(greedy, logged=None)), [2.8, 2.8, 1.0], rtol=1e-6)


def done_next(rows: np.ndarray, s: int) -> list[float]:
    """The one action at s' of every row of two environments in turn, by hand."""
    found = []
    for row, after in zip(rows, [*rows[2:], None, None], strict=True):
        ended = row[-2:].any() or after is None or (row[s + 1 : 2 * s + 1] != after[:s]).any()
        found.append(np.nan if ended else after[s])
    return found


def test_rows_tell_what_was_done_next_where_an_episode_goes_on():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, Transition.width(2, 1))).astype(np.float32)
    rows[:-2, 3:5] = rows[2:, :2]  # two environments take turns
    rows[:, -2:] = rng.uniform(size=(60, 2)) < 0.15
    rows[20, 3:5] += 1.0  # a gap in the log
    expected = done_next(rows, 2)
    assert 20 < np.isfinite(expected).sum() < 50
    drawing = Drawing(FitSettings(batch_size=200), 60, 0.9, 2, 1, next_actions=True)
    drawn, numbers = drawing(rng, 1, 60, lambda index: rows[index], lambda rows: None, 0, lambda numbers: 2)
    assert drawn.shape == (1, 200, rows.shape[1] + 1)
    np.testing.assert_array_equal(drawn[0, :, :-1], rows[numbers[0]])
    np.testing.assert_array_equal(drawn[0, :, -1], np.asarray(expected, np.float32)[numbers[0]])


@pytest.mark.slow
def test_a_compiled_run_tells_what_was_done_next():
    settings = TrainSettings(n_envs=2, random_steps=8, replay_size=64, batch_size=64)
    trainer = CompiledTrainer(ReBRAC(hidden=(4,)), Endless(), settings, seed=0)
    trainer.advance(40)
    replay = trainer._state.replay
    rows = np.asarray(replay.rows)[:40]
    expected = dict(zip(map(tuple, rows), done_next(rows, 1), strict=True))
    drawn, beside = trainer._draw(replay, KEY)
    told = np.asarray(beside.next_action)[:, 0]
    np.testing.assert_array_equal(told, [expected[tuple(row)] for row in np.asarray(drawn)])
    assert 5 < np.isfinite(told).sum() < 60


def test_a_fitted_method_has_no_rows_that_tell_what_was_done_next():
    fqi = ReBRAC(hidden=(4,)).template(BOX)
    every = dataclasses.replace(fqi, sync=Sync(critic=Copy(), policy=Copy()))
    with pytest.raises(UserError, match="BellmanNear needs the action that was taken at s'"):
        every.check_iterations(made(ReBRAC(hidden=(4,)), OBS_SIZE, BOX, KEY))
    with pytest.raises(UserError, match="n_step: the critic's BellmanNear takes transitions of one step"):
        FitSettings(n_step=2).fitting(fqi)


# ---------------------------------------------------------------------- penalties


def penalty_of(penalty: AbstractPenalty, nets: Components, batch: Transition) -> float:
    @jax.jit
    def value(nets: Components) -> jax.Array:
        data = Labelled((batch.obs, batch.action), batch.reward, aside=penalty.label(nets, batch, KEY))
        return penalty(nets.critic, nets.critic(batch.obs, batch.action), data)[0]

    return float(value(nets))


@pytest.mark.parametrize("spread", [0.2, 0.5])
def test_the_conservative_penalty_of_a_quadratic_is_a_gaussian_integral(spread):
    """q = −8 a²: log ∫ exp q = ½ log(π / 8), whatever the policy that draws; the logged action .25 has q = −½."""
    nets = Components(critic=critic((0, 0, 0, 0, 0, -8), (1, 0, 0, 0, 0, -8)), policy=gaussian_policy(0.0, spread))
    batch = transitions(np.zeros(2), 0.25, 0.0, 0.0)
    expected = 2 * (0.5 * np.log(np.pi / 8) + 0.5)
    found = penalty_of(Conservative(alpha=3.0, count=20_000), nets, batch)
    assert found == pytest.approx(3.0 * expected, abs=0.1)


def test_a_calibrated_penalty_pushes_nothing_below_the_logs_value():
    """v = −10⁹ leaves CQL's penalty; above all q, two thirds of the integral are exp v · |A|."""
    policy, batch = gaussian_policy(0.0, 0.2), transitions(np.zeros(2), 0.25, 0.0, 0.0)
    nets = Components(critic=critic((0, 0, 0, 0, 0, -8)), policy=policy)

    def found(value: float) -> float:
        valued = nets.replace("value", QuadraticValue(jnp.asarray([value, 0.0])))
        return penalty_of(Conservative(1.0, 500, calibrated=True), valued, batch)

    assert found(-1e9) == penalty_of(Conservative(1.0, 500), nets, batch)
    rise = found(6.0) - found(5.0)
    assert rise == pytest.approx(1.0, abs=0.01)
    assert found(5.0) > found(-1e9) + 3


def test_diversity_is_the_mean_cosine_of_the_critics_slopes():
    """Brute force over pairs, in half-widths of the box."""
    (batch,) = batches(1)
    nets = made(EDAC(**TINY, policy_hidden=(8,), n_critics=4, activation="tanh"), OBS_SIZE, BOX, KEY)

    def q(action, obs):
        return nets.critic(obs[None], action[None])[:, 0]

    slopes = np.asarray(jax.jit(jax.vmap(jax.jacobian(q)))(batch.action, batch.obs)) * np.asarray(BOX.half_width)
    unit = slopes / np.linalg.norm(slopes, axis=-1, keepdims=True)
    cosine = np.einsum("bim,bjm->bij", unit, unit)
    expected = np.mean([row[~np.eye(4, dtype=bool)].sum() for row in cosine]) / 3
    assert penalty_of(Diverse(eta=2.0), nets, batch) == pytest.approx(2 * expected, rel=1e-3, abs=1e-3)


def test_critics_without_a_slope_have_no_direction():
    batch = transitions(np.zeros(2), 0.25, 0.0, 0.0)
    flat = critic((1, 0, 0, 0, 0, 0), (2, 0, 0, 0, 0, 0))
    data = Labelled((batch.obs, batch.action), batch.reward)
    loss = jax.value_and_grad(lambda q: Diverse(1.0)(q, q(batch.obs, batch.action), data)[0])
    value, gradient = jax.jit(loss)(flat)
    assert float(value) == 0.0 and bool(jnp.isfinite(gradient.weights).all())


# ---------------------------------------------------------------------- over a dataset


def a_log(folder: Path) -> Path:
    """a ~ N(s / 2, .1²) on s' = s + a, r = −s²."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (256, 1)).astype(np.float32)
    action = np.clip(0.5 * obs + 0.1 * rng.normal(size=obs.shape), -1, 1).astype(np.float32)
    arrays = {"obs": obs, "action": action, "reward": -(obs[:, 0] ** 2), "next_obs": obs + action}
    Dataset.from_arrays(**arrays, terminated=np.zeros(256, bool), action_low=-1.0, action_high=1.0).save(folder)
    return folder


ONLINE = {"random_steps": 4, "replay_size": 100, "steps": 8}


@pytest.mark.slow
def test_cal_ql_goes_online_from_its_offline_agent(tmp_path):
    """With all it learned, the value of the log among it; a method that has none is refused."""
    env = "Pendulum-v1"
    log = fittedq.train("td3", env, hidden=(4,), batch_size=4, **ONLINE, out=tmp_path / "log", checkpoint_every=8)
    del log
    assert main(["data", "import", str(tmp_path / "log"), "--out", str(tmp_path / "data")]) == 0
    small = {"hidden": (4,), "batch_size": 4, "n_actions": 2}
    offline = fittedq.fit("cql", tmp_path / "data", steps=5, preset="cal-ql-2023", normalize_obs=False, **small)
    going = {"preset": "cal-ql-2023", "start": offline, "data": tmp_path / "data", **small, **ONLINE}
    begun = Run(
        "cql",
        env,
        Schedule(steps=1),
        data=Dataset.open(tmp_path / "data"),
        start=offline,
        settings=small | {"calibrated": True},
    )
    assert largest(begun.trainer.nets(), offline.nets) == 0.0
    begun.close()
    online = fittedq.train("cql", env, **going)
    assert largest(online.nets.value, offline.nets.value) > 0.0
    plain = fittedq.fit("cql", tmp_path / "data", steps=1, normalize_obs=False, **small)
    with pytest.raises(UserError, match="it is of cql and has no value"):
        fittedq.train("cql", env, **(going | {"start": plain}))


@pytest.mark.parametrize("method", [IQL, ReBRAC])
@pytest.mark.slow
def test_a_method_over_a_dataset_goes_on_from_its_checkpoint_bit_for_bit(method, tmp_path):
    data = a_log(tmp_path / "data")
    words = ["train", method.name, "--data", str(data), "--set", "hidden=4,4", "--set", "batch_size=8", "--out"]
    assert main([*words, str(tmp_path / "whole"), "--steps", "12"]) == 0
    assert main([*words, str(tmp_path / "run"), "--steps", "7"]) == 0
    resumed = fittedq.resume(tmp_path / "run", steps=12)
    whole = fittedq.load(tmp_path / "whole")
    assert largest(resumed.nets, whole.nets) == 0.0
    other = fittedq.fit(method(hidden=(4, 4)), data, steps=12, seed=1, batch_size=8)
    assert largest(other.nets, whole.nets) > 0.0


# ---------------------------------------------------------------------- what the log supports


def certain(mean: float, std: float) -> ClippedGaussianPolicy:
    """The same normal density in every state, of a mean and deviation in [−1, 1]."""
    policy = jax.jit(lambda key: ClippedGaussianPolicy(1, Box((-1.0,), (1.0,)), (), key, by_state=True))(KEY)
    zeros, bias = (jnp.asarray(row, jnp.float32) for row in ([[0, 0]], [[np.arctanh(mean), np.log(std)]]))
    return eqx.tree_at(lambda policy: (policy.net.weights[0], policy.net.biases[0]), policy, (zeros, bias))


@pytest.mark.parametrize(
    ("mean", "std", "c", "expected"), [(0.2, 0.1, 2.0, 0.4), (0.9, 0.1, 3.0, 1.0), (-0.5, 0.05, 1.0, -0.45)]
)
def test_the_argmax_goes_as_far_as_the_log_supports(mean, std, c, expected):
    """q = a grows to the end of A_D(s) = [m − c σ, m + c σ] ∩ A(s)."""
    nets = Components(critic=critic((0, 0, 1, 0, 0, 0)), behaviour=certain(mean, std))
    solved, obs = jax.jit(lambda nets, obs: Solved(support=Support(c))(nets, obs, KEY)), np.zeros((9, 1), np.float32)
    np.testing.assert_allclose(solved(nets, obs).action, expected, atol=1e-5)
    inside = solved(nets.replace("critic", critic((0, 0, 0, 0, 0, 0))), obs)
    near = jax.jit(lambda *given: NearLog(Box((-1.0,), (1.0,)), nets.behaviour, c).contains(*given))
    assert np.asarray(near(inside.action, obs)).all()


def test_all_is_supported_by_a_log_that_did_everything():
    """σ so large that A_D(s) = A(s): the integral and the argmax are those over A(s)."""
    nets = Components(critic=critic((0, 0, 1, 0, 0, -1)), behaviour=certain(0.0, 2.0))
    batch = transitions(np.zeros(3), 0.0, 1.0, 0.0)
    targets = (SmoothBellman(0.9, 0.5, Quadrature(9), support) for support in (Support(5.0), None))

    def y(target: SmoothBellman) -> jax.Array:
        return jax.jit(lambda: target(nets, batch, None, KEY).y)()

    wide, free = map(y, targets)
    np.testing.assert_allclose(wide, free, rtol=1e-5)
    narrow = y(SmoothBellman(0.9, 0.5, Quadrature(9), Support(0.01)))
    assert float(narrow[0]) < float(free[0]) - 1.0
    solved = [Solved(support=support) for support in (Support(5.0), None)]
    one, other = (jax.jit(lambda greedy=greedy: greedy(nets, batch.obs, KEY).action)() for greedy in solved)
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_limits_that_join_actions_have_no_interval():
    joined = fittedq.Polytope((-1.0, -1.0), (1.0, 1.0), [[1.0, 1.0]], [1.0])
    algorithm = ExplicitFQI(hidden=(4,), support=1.0)
    with pytest.raises(UserError, match="setting support: found whole-numbered actions, or limits that join"):
        algorithm.template(joined).check(made(algorithm, 2, joined, KEY))
    with pytest.raises(UserError, match="setting support: found one with policy_loss = 'improve'"):
        AmortizedFQI(support=1.0, policy_loss="improve")


def test_explicit_fqi_stays_where_the_log_has_been(tmp_path):
    """The log holds a near s / 2 where the best action, −s, was never tried."""
    data = a_log(tmp_path / "data")
    obs = np.linspace(-0.9, 0.9, 19, dtype=np.float32)[:, None]
    imitation = {"hidden": (16,), "epochs": 40, "minibatch": 32, "critic_learning_rate": 1e-2}

    def apart(**given: object) -> float:
        agent = fittedq.fit("explicit_fqi", data, steps=3, approximator="polynomial", **given)
        action = agent.act(obs)
        agent.save(tmp_path / f"agent-{len(given)}")
        np.testing.assert_array_equal(fittedq.load(tmp_path / f"agent-{len(given)}").act(obs), action)
        return float(np.abs(action - 0.5 * obs).max())

    assert apart(support=1.0, **imitation) < 0.3
    assert apart() > 0.7


def test_a_fitted_policy_is_pulled_to_the_log(tmp_path):
    """NFQCA with α = 0 clones a = s / 2 + noise."""
    settings = {"hidden": (16,), "minibatch": 32, "policy_epochs": 40, "policy_learning_rate": 1e-2}
    agent = fittedq.fit("nfqca", a_log(tmp_path / "data"), steps=1, alpha=0.0, **settings)
    obs = np.linspace(-0.9, 0.9, 19, dtype=np.float32)[:, None]
    assert float(np.abs(agent.act(obs) - 0.5 * obs).max()) < 0.15
