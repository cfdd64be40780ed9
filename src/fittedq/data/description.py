"""What the columns of a log are, and how its rows follow one another in time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from fittedq.errors import UserError, nearest

FILLS = ("hold", "line")
"""How a value between two others is made: the one before, or the straight line between both."""


@final
@dataclass(frozen=True)
class Description:
    """What a log's columns are; what is left empty is told from the columns' usual names.

    A sample is the time between two rows, `sample_time` seconds (0: the log's own). UserError: what contradicts itself.
    """

    obs: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    reward: str = ""
    """A column or a formula (`Expression`) of columns: the reward of a row for its observation and its action."""
    next_obs: tuple[str, ...] = ()
    terminated: str = ""
    """A column or a formula that is true where a row ends its episode, for nothing comes after it."""
    truncated: str = ""
    """A column or a formula that is true where a row is an episode's last, though the plant runs on."""
    episode: str = ""
    """A column that changes where an episode begins."""
    time: str = ""
    """A column of times: seconds, ISO 8601, or since 1970."""
    sample_time: float = 0.0
    gap: float = 0.0
    """Seconds without a row after which another episode begins; 0: three samples."""
    length: int = 0
    """Rows after which an episode is cut; 0: never."""
    resample: str = ""
    """How rows are moved onto a grid of `sample_time`: `hold`, `line`, or not at all."""
    fill: str = ""
    """How missing cells are filled: `hold`, `line`, or not at all."""
    date_order: str = ""
    """`day` or `month`: what comes first in 3/4/2024."""
    names: tuple[str, ...] = ()
    """The columns' names where the file has none."""
    words: Mapping[str, float] = field(default_factory=dict)
    """Numbers for words, beside those for ON, OFF and their like."""

    def __post_init__(self) -> None:
        for name, words in (("resample", FILLS), ("fill", FILLS), ("date_order", ("day", "month"))):
            value = getattr(self, name)
            if value and value not in words:
                raise UserError(f"{value!r} is unknown; {nearest(value, words)}", argument=name)
        for name in ("obs", "action", "next_obs", "names"):
            value = getattr(self, name)
            twice = next((one for one in value if value.count(one) > 1), None)
            if twice is not None:
                raise UserError(f"{twice!r} stands there twice; once is enough.", argument=name)
        self._check_times()
        self._check_next()

    def _check_times(self) -> None:
        for name in ("sample_time", "gap", "length"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(f"found {value:g}, expected a positive number.", argument=name)
        for name in ("sample_time", "gap", "resample"):
            if getattr(self, name) and not self.time:
                raise UserError("there is no column of times that it belongs to; name it with --time.", argument=name)

    def _check_next(self) -> None:
        if self.next_obs and self.obs and len(self.next_obs) != len(self.obs):
            raise UserError(
                f"found {len(self.next_obs)} columns for {len(self.obs)} of --obs; name as many.", argument="next_obs"
            )
        if self.next_obs and (self.resample or self.fill):
            raise UserError(
                "rows that hold their own next observation cannot be moved in time or filled; leave out --next-obs, "
                "and the next row's observation is taken."
            )

    @property
    def whole(self) -> bool:
        """Whether rows are put in order or filled, for which all of them are needed at once."""
        return bool(self.time or self.fill or self.length)
