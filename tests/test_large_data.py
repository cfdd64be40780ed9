"""Datasets larger than memory: batches from blocks of rows, and how much of the file stays in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms import REGISTRY
from fittedq.data.dataset import Dataset, Writer
from fittedq.trainers import blocks, rows
from fittedq.trainers.batches import BatchTrainer
from fittedq.trainers.blocks import BlockPool
from fittedq.trainers.rows import Rows
from fittedq.trainers.settings import FitSettings
from fittedq.types import REWARD, Transition

COUNT, SMALL = 1_000, 64


def numbered(count: int = COUNT) -> Dataset:
    """Rows whose reward is their number, in episodes of a hundred."""
    obs = np.arange(count, dtype=np.float32)[:, None]
    ends, action = np.arange(count) % 100 == 99, np.zeros((count, 1))
    columns = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs + 1, "truncated": ends}
    return Dataset.from_arrays(**columns, terminated=np.zeros(count, bool), action_low=-1, action_high=1)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A dataset that is more than may be held, in sixteen blocks of 62 or 63 rows; four are at hand."""
    monkeypatch.setattr(rows, "HELD_IN_MEMORY", 1)
    monkeypatch.setattr(blocks, "BLOCK", SMALL)
    return numbered()


def pool(data: Dataset, seed: int = 0) -> BlockPool:
    return BlockPool(Rows(data, normalize=False), seed, pool_bytes=4 * SMALL * 4 * Transition.width(1, 1))


def test_every_row_is_drawn_as_often_as_any_other(large: Dataset):
    """Over 200 passes: each row's count is binomial, mean 200."""
    drawing, rng, drawn = pool(large), np.random.default_rng(0), 0
    counts = np.zeros(COUNT)
    for _ in range(200 * COUNT // SMALL):
        numbers = drawing.draw(rng, (1, SMALL), drawn)
        np.add.at(counts, numbers.ravel(), 1)
        np.testing.assert_array_equal(drawing.take(numbers)[..., REWARD], numbers)
        drawn += SMALL
    assert counts.min() > 130
    assert counts.max() < 270


def test_a_batch_is_of_several_blocks_and_a_row_that_is_not_at_hand_is_read(large: Dataset):
    drawing = pool(large)
    numbers = drawing.draw(np.random.default_rng(0), (1, 256), 0)
    assert len(np.unique(numbers * 16 // COUNT)) >= 4
    everything = np.arange(COUNT).reshape(10, 100)
    np.testing.assert_array_equal(drawing.take(everything)[..., REWARD], everything)


def test_what_is_at_hand_depends_on_the_rows_drawn_alone(large: Dataset):
    """As a resumed run has it, at any place, also where one pass follows another."""
    straight, rng = pool(large), np.random.default_rng(0)
    for drawn in range(0, 3 * COUNT, 50):
        kept = rng.bit_generator.state
        numbers = straight.draw(rng, (2, 25), drawn)
        again = np.random.default_rng()
        again.bit_generator.state = kept
        np.testing.assert_array_equal(pool(large).draw(again, (2, 25), drawn), numbers)
    other = pool(large, seed=1).draw(np.random.default_rng(0), (2, 25), 0)
    assert (other // SMALL != pool(large).draw(np.random.default_rng(0), (2, 25), 0) // SMALL).any()


def test_a_run_goes_on_bit_for_bit(large: Dataset):
    algorithm = REGISTRY["td3_bc"](hidden=(4,))

    def trained(steps: int, trainer: BatchTrainer | None = None) -> BatchTrainer:
        trainer = BatchTrainer(algorithm, large, FitSettings(batch_size=8), seed=0) if trainer is None else trainer
        while trainer.step < steps:
            trainer.advance(steps - trainer.step)
        return trainer

    begun, resumed = trained(20).snapshot(), trained(0)
    resumed.restore(begun.arrays, begun.meta, {})
    expected, found = trained(30).snapshot().arrays, trained(30, resumed).snapshot().arrays
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_what_fits_into_memory_is_drawn_as_ever():
    trainer = BatchTrainer(REGISTRY["td3_bc"](hidden=(4,)), numbered(), FitSettings(batch_size=8), seed=0)
    assert trainer._pool is None


RESIDENT = """
import sys
from fittedq.data.dataset import Dataset
from fittedq.trainers import rows
from fittedq.trainers.blocks import BlockPool
import numpy as np
rows.HELD_IN_MEMORY = 1
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
data = Dataset.open(sys.argv[1], verify=False)
begin, most, drawn = resident(), 0.0, 0
all_rows = rows.Rows(data, normalize=True)
most = resident()
pool, rng = BlockPool(all_rows, 0, pool_bytes=2**23), np.random.default_rng(0)
while drawn < len(data):
    pool.take(pool.draw(rng, (64, 256), drawn))
    drawn += 64 * 256
    most = max(most, resident())
print(most - begin)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_pass_over_a_large_file_leaves_little_of_it_in_memory(tmp_path: Path):
    """140 MiB of columns; 8 MiB of blocks at hand, and what is handled at a time."""
    part = 50_000
    nothing, many = np.zeros(part, bool), np.zeros((part, 40), np.float32)
    with Writer(tmp_path / "large", action_set=Box([-1.0], [1.0])) as writer:
        for _ in range(9):
            writer.append(Transition(many, many[:, :1], many[:, 0], many, nothing, nothing))
        writer.finish()
    told = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(tmp_path / "large")], capture_output=True, text=True, check=True
    )
    assert float(told.stdout) < 90
