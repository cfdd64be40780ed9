"""Numbers of single precision in sentences: as short as they are distinct."""

from __future__ import annotations

import numpy as np
import pytest

from fittedq.actions.base import Box, described_apart
from fittedq.actions.limits import narrowed
from fittedq.arrays import shortest, told_apart
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.trainers.rows import check_same_plant

TENTH = float(np.float32(0.1))


@pytest.mark.parametrize(
    ("several", "told"),
    [
        (((TENTH, 255.0), (TENTH, 255.0)), ["(0.1, 255)", "(0.1, 255)"]),
        (((TENTH,), (0.2,)), ["(0.1)", "(0.2)"]),
        (((TENTH,), (0.1,)), ["(0.100000001)", "(0.1)"]),
        (((1.0000001, 5.0), (1.0, 5.0)), ["(1.0000001, 5)", "(1, 5)"]),
        (((1.0,), (1.0, 2.0)), ["(1)", "(1, 2)"]),
    ],
)
def test_bounds_are_told_as_short_as_they_are_distinct(several: tuple[tuple[float, ...], ...], told: list[str]) -> None:
    assert told_apart(*several) == told


def test_one_number_is_told_in_its_own_digits() -> None:
    assert [shortest(number) for number in (TENTH, 0.1, 1 / 3, -2.0)] == ["0.1", "0.1", "0.3333333333333333", "-2.0"]


def test_no_sentence_on_bounds_shows_what_single_precision_adds() -> None:
    tenth, fifth = Box((-TENTH,), (TENTH,)), Box((-0.2,), (0.2,))
    columns = {"obs": np.zeros((1, 2)), "action": np.zeros((1, 1)), "next_obs": np.zeros((1, 2))}
    data = Dataset.from_arrays(
        **columns, reward=[0.0], terminated=[0], action_low=np.float32(-0.1), action_high=np.float32(0.1)
    )
    with pytest.raises(UserError, match=r"lie in Box \(-0.1\) … \(0.1\), the environment has 2 and Box \(-0.2\) … "):
        check_same_plant(data, 2, fifth)
    with pytest.raises(UserError, match=r"between \(-0.2\) and \(0.2\), expected it inside the.* \(-0.1\) and \(0.1\)"):
        narrowed(tenth, fifth, "the dataset")
    with pytest.raises(UserError, match=r"dimension 0 is \[0.1, 0.1\], which is empty"):
        Box((TENTH,), (TENTH,))
    assert described_apart(tenth, Box((-TENTH,), (TENTH,))) == (str(tenth), str(tenth))
