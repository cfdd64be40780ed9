"""The rows of a log as one chain of states, in blocks that may count more than once or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.blocks import FEWEST_BLOCKS, blocks_of, runs_of, settling_rows
from fittedq.data.checks.markov import Markov
from fittedq.data.checks.sample import Sample
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.errors import UserError

MOST_FITTED_ROWS = 5_000
"""Of blocks from everywhere: what is fitted to."""
MOST_BEGINNINGS = 40
STANDS_STILL = 0.1
"""A coordinate that changes in a smaller share of the rows is given from outside, as a set-point is."""
FOLDS_OF_BLOCKS = 4


@final
@dataclass(frozen=True)
class Chain:
    """(x, u, r, x', terminated) of n rows, x the state of the plant: observations and actions of the last rows.

    Rows in which a set-point jumps are left out, for the plant did not move it.
    """

    dataset: Dataset
    state: AugmentedState
    """How x is made of observations."""
    rows: Int[np.ndarray, "n"]
    """Their numbers in the dataset."""
    x: Float[np.ndarray, "n x"]
    u: Float[np.ndarray, "n m"]
    """The actions that were executed."""
    reward: Float[np.ndarray, "n"]
    after: Float[np.ndarray, "n x"]
    """x'."""
    goes_on: Float[np.ndarray, "n"]
    """1, or 0 where the episode terminated."""
    block: Int[np.ndarray, "n"]
    moving: Int[np.ndarray, "y"]
    """The coordinates of the observation that the plant moves."""
    standing: Int[np.ndarray, "p"]
    starts: Int[np.ndarray, "k"]
    """Rows of the dataset: the first ones of the episodes, or of the blocks where episodes are few."""
    runs: tuple[Int[np.ndarray, "r"], Int[np.ndarray, "r"]]
    """(starts, stops) of rows that follow one another in the dataset."""
    said: str
    """What the blocks are, in words."""

    @staticmethod
    def of(dataset: Dataset, sees: Augmentation, *, settling: float | None, memory: int | None) -> Chain:
        """`sees` is what the controller remembers; `settling` in rows and `memory`, the rows of a state, by default as
        the description says and the checks of the log find."""
        _refuse_unfit(dataset)
        described = dataset.description or Description()
        sample = Sample.of(dataset)
        found = Markov.of(sample)
        lags = memory or max(described.history, found.history if isinstance(found, Markov) else 1)
        state = AugmentedState(_state_of(sees, lags), dataset.obs_size, dataset.action_set)
        runs = runs_of(dataset)
        starts, stops, said = blocks_of(runs, settling_rows(settling, described, sample))
        if len(starts) < FEWEST_BLOCKS:
            raise UserError(
                f"found {said}, expected at least {FEWEST_BLOCKS}, for intervals come from how much they differ; log "
                "on, hold out a larger share, or say in how many rows "
                "the plant settles, where it is sooner (settling).",
                argument="data",
            )
        taken = _taken(starts, stops)
        rows = np.concatenate([np.arange(int(starts[place]), int(stops[place])) for place in taken])
        block = np.repeat(np.arange(len(taken)), (stops - starts)[taken])
        raw = dataset.transitions(rows)
        changed = raw.next_obs != raw.obs
        stands = changed.mean(axis=0) <= STANDS_STILL
        kept = ~changed[:, stands].any(axis=1)
        chain = dataset.augmented(state).transitions(rows[kept])
        firsts = runs[0] if len(runs[0]) >= FEWEST_BLOCKS else starts
        return Chain(
            dataset=dataset,
            state=state,
            rows=rows[kept],
            x=np.asarray(chain.obs, np.float64),
            u=np.asarray(raw.action[kept], np.float64),
            reward=np.asarray(raw.reward[kept], np.float64),
            after=np.asarray(chain.next_obs, np.float64),
            goes_on=1.0 - np.asarray(raw.terminated[kept], np.float64),
            block=np.unique(block[kept], return_inverse=True)[1].reshape(-1),
            moving=np.flatnonzero(~stands),
            standing=np.flatnonzero(stands),
            starts=firsts[np.unique(np.linspace(0, len(firsts) - 1, min(len(firsts), MOST_BEGINNINGS)).astype(int))],
            runs=runs,
            said=said,
        )

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def blocks(self) -> int:
        """How many there are."""
        return int(self.block.max()) + 1

    @property
    def fold(self) -> Int[np.ndarray, "n"]:
        """0 … FOLDS_OF_BLOCKS − 1, a block's rows together."""
        return self.block % FOLDS_OF_BLOCKS

    @property
    def plant_columns(self) -> Int[np.ndarray, "c"]:
        """Where in x is what the plant depends on: all but the controller's integrals."""
        first = self.state.obs_size
        return np.delete(np.arange(self.state.size), np.arange(first, first + len(self.state.augmentation.integral)))

    @property
    def setpoint_pairs(self) -> list[tuple[int, int]]:
        """(moving, standing): differences that may be errors."""
        return [(moving, standing) for moving in self.moving.tolist() for standing in self.standing.tolist()][:12]


def _refuse_unfit(dataset: Dataset) -> None:
    if not all(np.isfinite(column).all() for column in dataset.columns.values()):
        raise UserError("the data hold NaN or infinity; leave such rows out: import with --drop-bad.", argument="data")
    names = (dataset.description or Description()).action
    for axis in np.flatnonzero(np.ptp(dataset.columns["action"], axis=0) == 0):
        name = names[axis] if axis < len(names) else f"action {axis}"
        raise UserError(
            f"{name} never changes in it, so nothing says what another value would do; give a log in which it moves.",
            argument="data",
        )


def _state_of(sees: Augmentation, lags: int) -> Augmentation:
    """What a state holds: the plant's last `lags` observations, and no less than the controller remembers."""
    remembers = 2 if sees.increments or sees.change_penalty > 0 else 1
    return Augmentation(
        history=max(lags, sees.history, remembers),
        integral=sees.integral,
        integral_limit=sees.integral_limit,
        sample=sees.sample,
    )


def _taken(starts: Int[np.ndarray, "b"], stops: Int[np.ndarray, "b"]) -> Int[np.ndarray, "t"]:
    """Blocks from everywhere, MOST_FITTED_ROWS rows or a little more."""
    share = min(1.0, MOST_FITTED_ROWS / (stops - starts).sum())
    count = max(FEWEST_BLOCKS, int(np.ceil(share * len(starts))))
    return np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int))
