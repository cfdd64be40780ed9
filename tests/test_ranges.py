"""Ranges in which settings are looked for: every one declared lies within what its setting takes."""

from __future__ import annotations

import pytest

from fittedq.algorithms import REGISTRY
from fittedq.errors import UserError
from fittedq.ranges import LINEAR, LOG, NEAR_ONE, Among, Span, read, word
from fittedq.settings import parse_assignments
from fittedq.trainers.choose import CHOICES, settings_of, split_for, tuned


@pytest.mark.parametrize("where", ["host", "dataset"])
@pytest.mark.parametrize("name", list(REGISTRY))
def test_every_setting_that_is_tuned_takes_both_ends_of_its_range(name: str, where: str) -> None:
    cls = REGISTRY[name]
    found = tuned(cls, where)
    assert {"gamma", "critic_learning_rate"} <= found.keys()
    assert ("batch_size" in found) == (not cls.fitted)
    for end in (0, 1):
        words = [f"{setting}={word(one.ends[end])}" for setting, one in found.items()]
        own, loop, seen = split_for(parse_assignments(words), cls, CHOICES[where, cls.fitted])
        made, training = cls(**own), settings_of(cls, where)(**loop)
        assert not seen
        assert {**vars(made), **vars(training)}.items() >= {
            setting: one.ends[end] for setting, one in found.items()
        }.items()


@pytest.mark.parametrize(
    ("text", "usual", "expected"),
    [
        ("1e-4..1e-2", Span(1e-5, 1e-3, LOG), Span(1e-4, 1e-2, LOG)),
        ("2..8", None, Span(2, 8)),
        ("0.9..0.99:near-one", None, Span(0.9, 0.99, NEAR_ONE)),
        ("2..8:linear", Span(1, 9, LOG), Span(2, 8, LINEAR)),
        ("64,64|8,", None, Among(((64, 64), (8,)))),
        ("min|mean", None, Among(("min", "mean"))),
        ("true|false", None, Among((True, False))),
    ],
)
def test_ranges_are_read(text: str, usual: Span | None, expected: Span | Among) -> None:
    assert read(text, usual) == expected
    assert Span(2, 8).whole and not Span(2, 8.0).whole


@pytest.mark.parametrize(
    "text", ["", " | ", "1..", "..2", "2..1", "1..1", "0..1:log", "0.5..1:near-one", "a..b", "1..nan", "1..2:lin"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected"):
        read(text, None)
