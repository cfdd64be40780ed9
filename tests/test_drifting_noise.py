"""Exploration that drifts: white noise is its end ρ = 1, and what it deviates by is what TD3's page says."""

import numpy as np
import pytest

import fittedq
from fittedq import TD3
from fittedq.acting.noise import AbstractExploration, Gaussian


def noise_of(exploration: AbstractExploration, normals: np.ndarray) -> np.ndarray:
    """η of ε, one step after another; [k, b, m]."""
    state, etas = np.zeros_like(normals[0]), []
    for normal in normals:
        state, eta = exploration.step(state, normal)
        etas.append(eta)
    return np.array(etas)


@pytest.mark.parametrize("reversion", [0.05, 0.15, 0.7])
def test_a_shock_decays_by_the_reversion_and_all_of_them_deviate_as_the_page_says(reversion: float) -> None:
    exploration = TD3(noise_sigma=0.1, noise_reversion=reversion).exploration()
    shock = np.zeros((400, 1, 1))
    shock[0] = 1.0
    response = noise_of(exploration, shock)[:, 0, 0]
    np.testing.assert_allclose(response, 0.1 * (1 - reversion) ** np.arange(400), atol=1e-12)
    assert np.sqrt((response**2).sum()) == pytest.approx(0.1 / np.sqrt(reversion * (2 - reversion)), rel=1e-6)


def test_the_usual_noise_is_white_as_published_and_the_same_as_a_reversion_of_nearly_one() -> None:
    normals = np.random.default_rng(0).standard_normal((20, 3, 2))
    white = TD3().exploration()
    assert isinstance(white, Gaussian)
    nearly = TD3(noise_reversion=1.0 - 1e-9).exploration()
    np.testing.assert_allclose(noise_of(nearly, normals), noise_of(white, normals), atol=1e-8)


@pytest.mark.parametrize("reversion", [0.0, -0.1, 1.5, float("nan")])
def test_a_reversion_that_does_not_revert_is_refused(reversion: float) -> None:
    with pytest.raises(fittedq.UserError, match="noise_reversion"):
        TD3(noise_reversion=reversion)
