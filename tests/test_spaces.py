"""Layouts of observations: equal to Gymnasium's own flattening, one by one and in batches, and plain data."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from fittedq.envs.spaces import Choices, Numbers, Parts, Spaces, layout_of_space, refuse_not_finite, spaces_of
from fittedq.errors import UserError
from strange_envs import OBSERVATIONS


def samples(space: spaces.Space, count: int) -> list[Any]:
    space.seed(0)
    return [space.sample() for _ in range(count)]


@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_one_observation_and_a_batch_lie_as_gymnasium_flattens_them(space: spaces.Space) -> None:
    layout, given = layout_of_space(space), samples(space, 3)
    expected = np.stack([spaces.flatten(space, one) for one in given]).astype(np.float32)
    assert layout.size == spaces.flatdim(space) == len(list(layout.names("observation")))
    for one, row in zip(given, expected, strict=True):
        rows, single = layout.read_flat(one, "observation")
        assert single
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, row[None])
    batched = concatenate(space, given, create_empty_array(space, 3))
    assert batch_space(space, 3).contains(batched)
    rows, single = layout.read_flat(batched, "observation")
    assert not single
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_flat_vectors_are_taken_too_and_a_description_says_all(space: spaces.Space) -> None:
    layout = layout_of_space(space)
    flat = np.linspace(0, 1, 2 * layout.size, dtype=np.float32).reshape(2, layout.size)
    rows, single = layout.read_flat(flat[0], "observation")
    assert single
    np.testing.assert_array_equal(rows, flat[:1])
    if layout.size > 1:  # of one number, a batch of whole observations goes before
        np.testing.assert_array_equal(layout.read_flat(flat, "observation")[0], flat)
    described = Spaces(layout, Numbers((2, 3)), "float64")
    assert spaces_of(json.loads(json.dumps(described.describe()))) == described


def test_coordinates_are_named_by_keys_and_places() -> None:
    names = list(layout_of_space(OBSERVATIONS["dict"]).names("observation"))
    assert names[:3] == ["observation['gear'] = 0", "observation['gear'] = 1", "observation['gear'] = 2"]
    assert names[3] == "observation['speed'][0]"
    assert names[-1] == "observation['wheels'][1][1, 1]"
    layout = layout_of_space(OBSERVATIONS["stack"])
    rows = np.zeros((2, 12), np.float32)
    rows[1, 5] = np.nan
    with pytest.raises(UserError, match=r"observation\[1, 2\] is nan in row 1"):
        refuse_not_finite(rows, layout, "observation")


@pytest.mark.parametrize(
    ("layout", "value", "sentence"),
    [
        (Choices((), (3,), (0,)), 3, "observation: found 3, expected a whole number from 0 to 2"),
        (Choices((), (3,), (1,)), 0, "found 0, expected a whole number from 1 to 3"),
        (Choices((2,), (3, 2), (0, 0)), [1, 2], r"observation\[1\]: found 2"),
        (Choices((), (3,), (0,)), 0.5, "found 0.5, expected a whole number"),
        (Parts((Numbers((2,)),), ("speed",)), {"pace": [1, 2]}, "the key 'speed' is missing"),
        (Parts((Numbers((2,)),), ("speed",)), {"speed": [1, None]}, r"observation\['speed'\]: found \[1, None\]"),
        (Parts((Numbers((2,)), Numbers(()))), ([1, 2],), "expected a tuple of 2"),
        (Parts((Numbers((2,)), Numbers((1,)))), (np.zeros((3, 2)), np.zeros((2, 1))), "3, 2 observations"),
        (Parts((Numbers((2,)),), ("speed",)), np.zeros(3), "dictionary with the keys 'speed'"),
        (Numbers((2,)), np.ma.masked_array([1 + 1j, 2], [0, 1]), "real numbers, not complex"),
        (Numbers((2,)), np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"), "real numbers"),
    ],
)
def test_what_does_not_fit_is_a_sentence(layout: Any, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        layout.read_flat(value, "observation")


@pytest.mark.parametrize(
    "space",
    [spaces.Text(4), spaces.Sequence(REAL := spaces.Box(-1, 1, (2,))), spaces.Dict(a=spaces.Graph(REAL, None))],
    ids=["text", "sequence", "graph-in-dict"],
)
def test_spaces_without_a_fixed_number_of_numbers_are_refused(space: spaces.Space) -> None:
    with pytest.raises(UserError, match=r"observation space: found .*expected a Box, Discrete"):
        layout_of_space(space)


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {"observation": {"kind": "numbers", "shape": [1e9]}},
        {"observation": {"kind": "numbers", "shape": [10**6, 10**6]}},
        {"observation": {"kind": "numbers", "shape": [-1, -1]}},
        {"observation": {"kind": "choices", "shape": [], "counts": [2, 2], "starts": [0, 0]}},
        {"observation": {"kind": "parts", "keys": ["a"], "parts": []}},
        {"observation": {"kind": "os.system"}},
        {"action_dtype": "object"},
        {"action_dtype": "int32"},
    ],
)
def test_a_damaged_description_is_refused(damaged: Any) -> None:
    whole = Spaces.flat(2, 1).describe()
    with pytest.raises(UserError, match="spaces: found"):
        spaces_of(whole | damaged if damaged else damaged)


def test_actions_are_given_in_the_environments_shape_and_dtype() -> None:
    shaped = Spaces(Numbers((3,)), Numbers((2, 3)), "float64").shaped(np.arange(12, dtype=np.float32).reshape(2, 6))
    assert (shaped.shape, shaped.dtype) == ((2, 2, 3), np.float64)
    assert isinstance(Spaces(Numbers((3,)), Numbers(()), "float32").shaped(np.ones(1, np.float32)), np.ndarray)
    assert gymnasium.spaces.Box(0, 1, ()).contains(
        Spaces(Numbers((3,)), Numbers(()), "float32").shaped(np.ones(1, np.float32))
    )
