"""Objects in settings: what a method takes, a file holds and gives back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from fittedq import ExplicitFQI, MilpArgmax, ProjectedAscent, UserError
from fittedq.settings import as_json, from_json


@pytest.mark.parametrize(
    "maximizer",
    [
        MilpArgmax(state_seconds=math.inf),
        ProjectedAscent(learning_rate=1),
        ProjectedAscent(tolerance=1e6),
    ],
    ids=str,
)
def test_what_a_method_takes_is_read_again(maximizer: Any) -> None:
    _read_again(maximizer)


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.unannotated
def test_numpys_numbers_are_taken() -> None:
    numbers: dict[str, Any] = {"steps": np.int64(5), "learning_rate": np.float32(0.5)}
    _read_again(ProjectedAscent(**numbers))


def _read_again(maximizer: Any) -> None:
    method = ExplicitFQI(maximizer=maximizer)
    read = from_json(ExplicitFQI, json.loads(json.dumps(as_json(method))), {}, "FILE")
    assert ExplicitFQI(**read) == method
    assert read["maximizer"] == maximizer


@pytest.mark.parametrize(
    ("name", "number"),
    [("tolerance", 1e7), ("steps", 10**9), ("steps", 10**400), ("power", -1.0), ("power", math.inf)],
)
def test_what_no_file_would_give_back_is_refused_at_once(name: str, number: Any) -> None:
    with pytest.raises(UserError, match=f"setting maximizer: found ProjectedAscent with {name} = .*a file may hold"):
        ExplicitFQI(maximizer=ProjectedAscent(**{name: number}))
