"""No option is taken and ignored: what has no effect, or is given twice, is one sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

import fittedq
from fittedq import algorithms
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.algorithms.fitted import APPROXIMATORS
from fittedq.algorithms.nfqca import NFQCA
from fittedq.api import resume
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.runs.robustness import Perturbation
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.settings import parse_assignments, setting_fields
from fittedq.trainers.settings import FitSettings, TrainSettings

ONE = Box((-1.0,), (1.0,))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained agent for the pendulum."""
    ddpg, box = algorithms.find("ddpg")(hidden=(8,)), Box((-2.0,), (2.0,))
    folder = tmp_path_factory.mktemp("agents") / "agent"
    Agent(ddpg, 3, box, ddpg.networks(3, box, jax.random.PRNGKey(0)), env="Pendulum-v1").save(folder)
    return folder


def test_inspect_refuses_to_trust_what_it_does_not_need(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(saved), "--trust-code", "foo:bar"]) == 2
    assert "--trust-code: found 'foo:bar', which no environment" in capsys.readouterr().err
    assert main(["inspect", str(saved), "--wrapper", "foo:bar"]) == 2
    assert "found no environment that they belong to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--worst 2", "--worst: found no --gap that it belongs to; give both."),
        ("--health --tol 0.1", "--tol: found no --gap that it belongs to; give both."),
        ("--states 2", "--states: found no --gap or --health that it belongs to; give both."),
        ("--data log", "--data: found no --gap or --health or --support that it belongs to; give both."),
        ("--gap --tol inf", "--tol: found inf, expected a share above 0 and at most 1."),
        ("--gap --within nan", "--within: found nan, expected a share above 0 and at most 1."),
        ("--gap --state-seconds nan", "--state-seconds: found nan, expected seconds of at least 0."),
        (f"--health --states {10**30}", "--states: found"),
        ("--gap --worst -1", "--worst: found -1, expected a whole number of at least 0."),
    ],
)
def test_inspect_refuses_what_would_have_no_effect(
    options: str, sentence: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(saved), *options.split()]) == 2
    assert f"fittedq: {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (f"--refine {10**9}", "--refine: found 1000000000, expected a whole number between 0 and 100000."),
        ("--trust 0.5", "--trust: found 0.5 and no --refine, whose steps it limits; give both."),
        ("--trust nan --refine 2", "--trust: found nan, expected a share of the half-widths in (0, 2]."),
        ("--trust-code foo:bar", "--trust-code: found 'foo:bar', which no environment that is named there needs"),
        ("--env Pendulum-v1 --trust-code foo:bar", "--trust-code: found 'foo:bar', which no environment"),
        ("--env Pendulum-v1 --env-kwargs g=5 --env-kwargs g=6", "--env-kwargs g=6: g is given twice, expected once"),
    ],
)
def test_eval_refuses_what_would_have_no_effect(
    options: str, sentence: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(saved), "--episodes", "1", *options.split()]) == 2
    assert f"fittedq: {sentence}" in capsys.readouterr().err


def test_a_key_that_is_given_twice_is_refused_however_it_is_written() -> None:
    for second in ("tau=0.2", "tau=0.1", " tau =0.2"):
        with pytest.raises(UserError, match="tau is given twice, expected once"):
            parse_assignments(["tau=0.1", second])
    with pytest.raises(UserError, match="batch_size is given twice"):
        parse_assignments(["batch_size=3", "batch-size=4"])
    assert parse_assignments(["tau=0.1", "gamma=0.2"]) == {"tau": 0.1, "gamma": 0.2}


def test_settings_of_a_fit_that_others_make_void_are_refused() -> None:
    with pytest.raises(UserError, match="setting minibatch: found 16 with optimizer = 'rprop'"):
        NFQCA(optimizer="rprop", minibatch=16)
    assert NFQCA(optimizer="rprop").minibatch is None
    assert NFQCA(optimizer="rprop", minibatch=None).minibatch is None
    with pytest.raises(UserError, match="setting patience: found 2 with held_out = 0"):
        NFQCA(patience=2)
    assert NFQCA(patience=2, held_out=0.1).patience == 2


def test_resume_refuses_to_trust_what_a_run_does_not_name(tmp_path: Path) -> None:
    tiny = {"hidden": (8,), "batch_size": 8, "random_steps": 8, "replay_size": 100}
    run = Run("ddpg", "Pendulum-v1", Schedule(steps=10, eval_every=0), settings=tiny, folder=tmp_path / "run")
    for _ in run.reports():
        pass
    with pytest.raises(UserError, match="trust_code: found 'foo:bar', which no environment"):
        resume(tmp_path / "run", steps=20, trust_code=["foo:bar"])


def unread(method: Any) -> set[str]:
    """The settings at which nothing looks while the method's networks and its template are made."""
    box, key, read = Box((-1.0,), (1.0,)), jax.random.PRNGKey(0), set[str]()

    def noted(self: Any, name: str) -> Any:
        read.add(name)
        return object.__getattribute__(self, name)

    watched = copy.copy(method)
    object.__setattr__(watched, "__class__", type("Watched", (type(method),), {"__getattribute__": noted}))
    jax.eval_shape(lambda: watched.networks(3, box, key))
    watched.template(box)
    return {field.name for field in setting_fields(type(method))} - read


@pytest.mark.parametrize("approximator", [name for name in APPROXIMATORS if name != "features"])
@pytest.mark.parametrize("name", ["explicit_fqi", "smooth_fqi", "amortized_fqi"])
def test_what_an_approximator_does_not_read_is_refused(name: str, approximator: str) -> None:
    cls: Any = algorithms.find(name)
    method = cls(approximator=approximator)
    idle = unread(method) & set[str]().union(cls.ignores, *(one.reads for one in APPROXIMATORS.values()))
    assert idle == cls.ignores | {field for field in OTHER if is_refused(cls, approximator, field)}


OTHER: dict[str, Any] = {
    "hidden": (7,),
    "activation": "tanh",
    "optimizer": "adamw",
    "critic_learning_rate": 0.1,
    "n_critics": 3,
    "layer_norm": True,
    "dropout": 0.1,
    "epochs": 7,
    "minibatch": 7,
    "held_out": 0.1,
    "patience": 7,
    "reset": True,
    "n_trees": 7,
    "min_samples_leaf": 7,
    "degree": 3,
    "n_centers": 7,
    "ridge": 0.1,
}


def is_refused(cls: Any, approximator: str, field: str) -> bool:
    """Whether another value than by default is."""
    try:
        cls(approximator=approximator, **{field: OTHER[field]})
    except UserError as error:
        return str(error).endswith(f"which approximator = {approximator!r} does not read; leave it out.")
    return False


def test_what_no_part_of_a_method_reads_is_refused_and_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for name, field, value in (("explicit_fqi", "policy_learning_rate", 0.1), ("nfqca", "tau", 0.1)):
        with pytest.raises(UserError, match=f"setting {field}: found 0.1, which {name} does not read; leave it out."):
            algorithms.find(name)(**{field: value})
        assert main(["list", name, "--json"]) == 0
        assert f'"{field}"' not in capsys.readouterr().out


def test_a_maximizer_that_climbs_is_refused_where_nothing_can_be_climbed() -> None:
    method = algorithms.find("explicit_fqi")(approximator="extra_trees", maximizer="ascent")
    with pytest.raises(UserError, match="ProjectedAscent: found a TreeCritic, which has no gradient to climb"):
        method.networks(3, Box((-1.0,), (1.0,)), jax.random.PRNGKey(0))
    method = algorithms.find("amortized_fqi")(approximator="extra_trees", policy_loss="improve")
    nets = method.networks(3, Box((-1.0,), (1.0,)), jax.random.PRNGKey(0))
    with pytest.raises(UserError, match="Improve: found a TreeCritic, which has no gradient for a policy to climb"):
        method.template(Box((-1.0,), (1.0,))).check(nets)


@pytest.mark.parametrize(
    ("name", "settings", "choice"),
    [
        ("svg", {"max_horizon": 4}, {"horizon": "auto"}),
        ("svg", {"noise_sigma": 0.3}, {"policy": "deterministic"}),
        ("svg", {"temperature": 0.1, "target_entropy": -2.0}, {"temperature": None}),
        ("svg", {"policy": "deterministic", "initial_temperature": 0.5}, {"policy": "gaussian"}),
        ("sac", {"temperature": 0.1, "temperature_learning_rate": 0.1}, {"temperature": None}),
        ("ddpg", {"noise": "gaussian", "noise_dt": 0.1}, {"noise": "ou"}),
        ("ddpg", {"target_period": 5, "tau": 0.1}, {"target_period": None}),
    ],
)
def test_what_another_choice_would_read_is_refused(name: str, settings: dict[str, Any], choice: dict[str, Any]) -> None:
    cls: Any = algorithms.find(name)
    idle = [*settings][-1]
    with pytest.raises(UserError, match=f"{idle}: found .* does not read; leave it out"):
        cls(**settings)
    assert getattr(cls(**settings | choice), idle) == settings[idle]


def test_settings_of_the_other_kind_of_method_are_refused_from_a_dataset_too() -> None:
    with pytest.raises(UserError, match="setting batch_size: found 8, expected 256: a fitted method labels every row"):
        FitSettings(batch_size=8).check_iterations()
    with pytest.raises(UserError, match=r"setting tolerance: found 0\.1, expected 0: between iterations"):
        FitSettings(tolerance=0.1).check_batches()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (lambda: TrainSettings(return_bound=5.0), "return_bound: scale_rewards is false"),
        (lambda: FitSettings(return_bound=5.0), "return_bound: scale_rewards is false"),
        (lambda: TrainSettings(env_timeout=5.0), "env_timeout: asynchronous is false"),
        (lambda: FitSettings(average_share=0.5), "average_share: keep is last, so nothing is averaged"),
        (lambda: fittedq.SVG(dynamics="pendulum", n_models=3), "n_models: found 3, which dynamics = pendulum"),
        (
            lambda: fittedq.SVG(dynamics="pendulum", max_overfit=2.0),
            "max_overfit: found 2.0, which dynamics = pendulum",
        ),
        (lambda: fittedq.SmoothFQI(samples=8).template(ONE), "samples: found 8, which integration by quadrature"),
        (lambda: fittedq.SmoothFQI(integration="sampling", points=5).template(ONE), "points: found 5, which"),
        (lambda: Perturbation.of("noise=nan"), "perturb: found 'noise=nan': noise: found nan"),
        (lambda: Perturbation.of("delay=1.5"), "perturb: found 'delay=1.5': delay: found 1.5"),
    ],
)
def test_a_setting_that_another_switches_off_is_refused(settings: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        settings()
    assert sentence in str(refused.value)


def test_settings_that_others_switch_on_are_taken() -> None:
    assert TrainSettings(scale_rewards=True, return_bound=5.0, asynchronous=True, env_timeout=5.0).return_bound == 5.0
    assert fittedq.SmoothFQI(samples=8, integration="sampling").template(ONE) is not None
    assert fittedq.SVG(n_models=3).n_models == 3
