"""Plants that are off, against plants that were built so, and loops whose answer is known."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq.acting.episodes import Memoryless
from fittedq.acting.perturbed import Perturbed
from fittedq.actions.base import Box
from fittedq.cli.main import main
from fittedq.envs.gymnax import Gymnax
from fittedq.envs.native import AbstractPhysics, Pendulum
from fittedq.envs.parameters import Randomized, parameters, scaled
from fittedq.envs.plant import resolve
from fittedq.envs.process import CartPole, TwoTanks
from fittedq.runs.robustness import Perturbation, spread_of
from fittedq.types import Transition
from gymnax_envs import Lag

BOX = Box((-1.0,), (1.0,))


class Integrator(AbstractPhysics[jax.Array]):
    """x' = x + a from x = 0; r = a. Every return tells which actions came when."""

    obs_size = 1
    action_set = BOX
    episode_length = 8

    def begin(self, key):
        return jnp.zeros(1)

    def observe(self, inner):
        return inner

    def recall(self, obs):
        return obs

    def transition(self, inner, action, key):
        return inner + action, action[0], jnp.zeros((), bool)


def counting() -> Memoryless:
    """a = x / 10 + 1/10: from 0 without a delay the actions are .1 · 1.1^t."""
    return Memoryless(lambda obs: obs / 10 + 0.1, 1, BOX)


def actions(loop: Perturbed, steps: int = 8) -> list[float]:
    """What reaches x' = x + a from 0."""
    memory, x, taken = loop.start(1), np.zeros((1, 1), np.float32), []
    for _ in range(steps):
        action, memory = loop.step(memory, x)
        x = x + action
        taken.append(float(action[0, 0]))
    return taken


def perturbed(**how) -> Perturbed:
    return Perturbed(counting(), BOX, **{"noise": np.zeros(1), **how})


@pytest.mark.parametrize("delay", [0, 1, 2, 3])
def test_a_delay_is_the_recursion_that_it_says(delay: int) -> None:
    # By hand: x' = x + a_{t−k}, a_t = (x_t + 1) / 10, and a_0 until the first comes through.
    x, decided, expected = 0.0, [], []
    for t in range(8):
        decided.append((x + 1) / 10)
        expected.append(decided[max(t - delay, 0)])
        x += expected[-1]
    np.testing.assert_allclose(actions(perturbed(delay=delay)), expected, rtol=1e-5)


def test_a_load_begins_where_it_says_and_passes_the_limits_of_the_controller_alone() -> None:
    bold = Memoryless(lambda obs: np.full((len(obs), 1), 5.0), 1, Box((-1.0,), (3.0,)))
    taken = actions(Perturbed(bold, Box((-1.0,), (3.0,)), np.zeros(1), load=-0.25, load_from=3), 5)
    assert taken == [3.0, 3.0, 3.0, 2.5, 2.5]  # a quarter of the half-width 2, off the valve's end


def test_noise_has_its_moments_by_coordinate_and_is_the_same_for_all_that_begin_alike() -> None:
    seen: list[np.ndarray] = []

    def look(obs: np.ndarray) -> np.ndarray:
        seen.append(obs)
        return obs[:, :1]

    noise, true = np.array([0.5, 0.0, 2.0]), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    loop = Perturbed(Memoryless(look, 3, BOX), BOX, noise)
    memory = loop.start(2)
    for _ in range(4_000):
        _, memory = loop.step(memory, true)
    errors = np.array(seen) - true
    np.testing.assert_allclose(errors.std(axis=0), np.stack([noise] * 2), atol=0.08)  # σ/√(2n) = .022 of 2
    np.testing.assert_allclose(errors.mean(axis=0), 0.0, atol=0.13)  # σ/√n = .032 of 2
    assert abs(np.corrcoef(errors[:, 0, 0], errors[:, 1, 0])[0, 1]) < 0.06  # episodes of their own
    assert abs(np.corrcoef(errors[1:, 0, 0], errors[:-1, 0, 0])[0, 1]) < 0.06  # white
    again = perturbed(noise=np.ones(1)), perturbed(noise=np.ones(1))
    assert actions(again[0]) == actions(again[1])


@pytest.mark.parametrize(
    ("env", "factors", "built"),
    [
        (TwoTanks(), {"pump": 1.1, "outlets": 0.9}, TwoTanks(pump=3.3 * 1.1, outlets=(0.178 * 0.9, 0.178 * 0.9))),
        pytest.param(CartPole(), {"pole_mass": 0.8}, CartPole(pole_mass=0.1 * 0.8), marks=pytest.mark.slow),
        pytest.param(Pendulum(), {"gravity": 1.2}, Pendulum(gravity=12.0), marks=pytest.mark.slow),
        (Gymnax(Lag()), {"drift": 2.0}, Gymnax(Lag(), {"drift": 0.2})),
    ],
)
def test_a_scaled_plant_is_the_plant_built_so_also_inside_a_program(env, factors, built) -> None:
    key = jax.random.key(3)
    inner = jax.jit(built.begin)(key)
    action = jnp.full(built.action_set.size, 0.7)

    def stepped(plant):
        after, reward, _ = plant.transition(inner, action, key)
        return plant.observe(after), reward

    def inside(values):
        return stepped(scaled(env, dict(zip(factors, values, strict=True))))

    expected = jax.jit(lambda: stepped(built))()
    for found in (jax.jit(lambda: stepped(scaled(env, factors)))(), jax.jit(inside)(jnp.array([*factors.values()]))):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)
    assert not np.allclose(jax.jit(lambda: stepped(env))()[0], expected[0], rtol=1e-4)


def test_randomized_parameters_are_uniform_stay_for_an_episode_and_leave_its_beginning() -> None:
    env = Randomized(TwoTanks(), ("pump", "outlets"), 0.2)
    keys = jax.random.split(jax.random.key(0), 4_000)
    inner, factors = jax.jit(jax.vmap(env.begin))(keys)
    np.testing.assert_array_equal(inner, jax.jit(jax.vmap(TwoTanks().begin))(keys))
    factors = np.asarray(factors)
    assert factors.min() >= 0.8 and factors.max() <= 1.2
    np.testing.assert_allclose(factors.mean(axis=0), 1.0, atol=0.008)  # .2/√3/√4000 = .0018
    np.testing.assert_allclose(factors.std(axis=0), 0.2 / np.sqrt(3), atol=0.005)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.06
    after, *_ = jax.jit(jax.vmap(env.transition))((inner, factors), np.ones((4_000, 1), np.float32), keys)
    np.testing.assert_array_equal(after[1], factors)
    at_ends = Randomized(TwoTanks(), ("pump", "outlets"), 0.2, at_ends=True)
    ends = np.asarray(jax.jit(jax.vmap(at_ends.begin))(keys)[1])
    np.testing.assert_allclose(np.unique(ends), [0.8, 1.2], rtol=1e-6)
    assert 0.4 < (ends > 1).mean() < 0.6


def test_what_is_lost_is_paired_and_known_for_an_integrator() -> None:
    found = fittedq.robustness(
        {"count": counting(), "still": lambda obs: 0.0},
        Integrator(),
        ["load=0.2", Perturbation(delay=1)],
        episodes=2,
    )
    returns = [sum(actions(loop)) for loop in (perturbed(), perturbed(load=0.2, load_from=4), perturbed(delay=1))]
    lost = {words: found.lost(words) for words in found.perturbed}
    assert lost["load 0.2"]["count"].mean == pytest.approx(returns[0] - returns[1], rel=1e-5)
    assert lost["load 0.2"]["still"].mean == pytest.approx(-4 * 0.2, rel=1e-5)
    assert lost["delay 1"]["count"].mean == pytest.approx(returns[0] - returns[2], rel=1e-5)
    assert lost["delay 1"]["still"].mean == 0.0
    assert [row[0] for row in found.table()] == ["return lost [95 %]", "load 0.2", "delay 1"]


def test_noise_counts_in_deviations_within_episodes_so_that_set_points_have_none() -> None:
    first = np.stack([np.array([1.0, -1, 1, -1]), np.full(4, 3.0)], axis=1)
    other = np.stack([np.array([7.0, 1, 7, 1]), np.full(4, 9.0)], axis=1)
    rows = [Transition(obs, *[np.zeros(4)] * 5) for obs in (first, other)]
    np.testing.assert_allclose(spread_of(rows), [np.sqrt((1 + 9) / 2), 0.0])
    np.testing.assert_allclose(spread_of(rows, [fittedq.Tracked(1, setpoint=0)]), [0.0, 0.0])


def test_words_of_perturbations() -> None:
    one = Perturbation.of("noise=0.02, delay=1,pump=1.1")
    assert one == Perturbation(noise=0.02, delay=1, parameters={"pump": 1.1})
    assert str(one) == "noise 0.02, delay 1, pump × 1.1"
    assert str(Perturbation.of("parameters=0.1")) == "parameters ± 0.1"
    assert parameters(Gymnax(Lag())) == {"drift": False} and list(parameters(TwoTanks())) == list(TwoTanks.varying)


TANKS = ["constant:6", "--env", "jax/TwoTanks-v1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TANKS, "--perturb", "noise"], "--perturb: found 'noise', expected NAME=NUMBER"),
        ([*TANKS, "--perturb", "noise=1,noise=2"], "of different names"),
        ([*TANKS, "--perturb", "noise=-1"], "noise: found -1.0, expected a share"),
        ([*TANKS, "--perturb", "noise=nan"], "noise: found nan"),
        ([*TANKS, "--perturb", "delay=1.5"], "delay: found 1.5, expected a whole number"),
        ([*TANKS, "--perturb", "parameters=1.1"], "parameters: found 1.1, expected a share below 1"),
        ([*TANKS, "--perturb", "pump=0"], "pump: found 0.0, expected a factor above 0"),
        ([*TANKS, "--perturb", "quantize=0"], "--perturb: found a perturbation that changes nothing"),
        ([*TANKS, "--perturb", "pump=1,delay=0"], "--perturb: found a perturbation that changes nothing"),
        (
            [*TANKS, "--perturb", "pumps=1.1"],
            "'pumps', which is neither noise, delay, load, parameters nor",
        ),
        ([*TANKS, "--perturb", "parameters=0.1,pump=1.1"], "found parameters beside pump"),
        ([*TANKS, "--vary", "pump"], "--vary: found no --perturb"),
        ([*TANKS, "--perturb", "parameters=0.1", "--vary", "mass"], "'mass', no parameter of"),
        (["constant:0", "--env", "Pendulum-v1", "--perturb", "parameters=0.1"], "is stepped on the host"),
        (["constant:0", "--env", "Pendulum-v1", "--perturb", "g=1.1"], "'g', which is neither"),
        (
            ["constant:0", "--env", "gymnax/gymnax_envs:Lag", "--perturb", "parameters=0.1"],
            "does not say which of its parameters may be off; its numbers are drift. Name those that are physics",
        ),
    ],
)
def test_what_cannot_be_off_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_command_line_tells_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"hidden": (8,), "batch_size": 8, "random_steps": 4, "randomize": 0.2}
    fittedq.train("td3", "jax/Pendulum-v1", steps=8, out=tmp_path / "run", **small)
    words = ["--episodes", "1", "--perturb", "delay=1,parameters=0.1", "--perturb", "noise=0.1", "--json"]
    assert main(["eval", str(tmp_path / "run"), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["perturbation"] for one in told["robustness"]] == ["delay 1, parameters ± 0.1", "noise 0.1"]
    assert told["robustness"][0]["controllers"][0]["lost"]["mean"] == pytest.approx(
        told["mean"] - told["robustness"][0]["controllers"][0]["returns"][0]
    )
    assert main(["eval", str(tmp_path / "run"), *words[:-1]]) == 0
    assert "return lost [95 %]" in capsys.readouterr().out


@pytest.mark.slow
def test_a_randomized_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    small = {"hidden": (8,), "batch_size": 8, "random_steps": 4, "randomize": 0.2, "vary": ("gravity",)}
    whole = fittedq.train("td3", "jax/Pendulum-v1", steps=24, seed=1, **small)
    fittedq.train("td3", "jax/Pendulum-v1", steps=12, seed=1, out=tmp_path / "run", **small)
    resumed = fittedq.resume(tmp_path / "run", steps=24)
    obs = np.array([0.6, 0.8, 2.0])
    np.testing.assert_array_equal(whole.act(obs), resumed.act(obs))
    with pytest.raises(fittedq.UserError, match="keeps its randomize"):
        fittedq.resume(tmp_path / "run", steps=30, set={"randomize": 0.1})


@pytest.mark.parametrize(
    ("env", "settings", "said"),
    [
        ("Pendulum-v1", {"randomize": 0.1}, "randomize: Pendulum-v1 is stepped on the host"),
        ("jax/TwoTanks-v1", {"vary": ("pump",)}, "vary: randomize is 0"),
        ("jax/TwoTanks-v1", {"randomize": 0.1, "vary": ("mass",)}, "'mass', no parameter of"),
        ("jax/TwoTanks-v1", {"randomize": 1.0}, "randomize"),
        (Integrator(), {"randomize": 0.1}, "Integrator names no parameters to vary; its class may"),
    ],
)
def test_what_cannot_be_randomized_is_one_sentence(env: object, settings: dict, said: str) -> None:
    with pytest.raises(fittedq.UserError, match=said.replace("(", r"\(")):
        fittedq.train("td3", env, steps=10, **settings)


@pytest.mark.slow
def test_physics_of_a_randomized_plant_is_that_of_each_episode() -> None:
    # A Gymnax plant's rollouts go on from stored states, in which the episode's factors are.
    settings = {"dynamics": "env", "horizon": "2", "policy": "deterministic", "hidden": (8,), "batch_size": 8}
    agent = fittedq.train(
        "svg", Gymnax(Lag()), steps=12, random_steps=4, randomize=0.5, vary=("drift",), normalize_obs=False, **settings
    )
    assert np.isfinite(agent.evaluate(Gymnax(Lag()), 2)).all()
    assert resolve(Gymnax(Lag())).obs_size == 1
