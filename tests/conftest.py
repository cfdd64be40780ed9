"""How the tests are run: programs are compiled soon and kept on disk."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from budget import Budget

# The programs of the tests run for a moment: what counts is how soon they are compiled.
SOON = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
ONE_THREAD = "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_multi_thread_eigen=false"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--as-shipped", action="store_true", help="run the tests marked as_shipped, on users' programs")
    parser.addoption("--annotations", action="store_true", help="check every annotation at every call, a fifth slower")


def pytest_configure(config: pytest.Config) -> None:
    """The environment of this process, its workers, and the programs that tests start; a caller's flags come last."""
    if config.option.annotations:  # whole numbers count as numbers (PEP 484)
        install_import_hook("fittedq", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
    # A suite in the background is started with these ignored, and so would be every program that a test interrupts.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    config.pluginmanager.register(Budget())
    if hasattr(config, "workerinput"):
        return  # a worker has its parent's
    if not config.option.as_shipped:
        os.environ["XLA_FLAGS"] = f"{SOON} {ONE_THREAD} {os.environ.get('XLA_FLAGS', '')}".strip()
        os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    from fittedq.machine import processor  # not before the hook above, which sees what is imported after it

    # The keys of compiled programs hold versions and flags, but not where they may run.
    folder = config.cache.mkdir("programs") / hashlib.sha256(processor().encode()).hexdigest()[:16]
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_collection_finish() -> None:
    """What is imported stays: collections need not look at it. Tracing a program makes thousands of objects that stay
    until it is compiled, and every 700 of them would start a collection: a twentieth of all time."""
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files without a test that runs as shipped need not be imported for it."""
    if not config.option.as_shipped or not collection_path.is_file():
        return None
    text = collection_path.read_text()
    return True if "as_shipped" not in text and "unannotated" not in text else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    checked = "annotations" if config.option.annotations else "unannotated"

    def runs(item: pytest.Item) -> bool:
        marks = {mark.name for mark in item.iter_markers()}
        if config.option.as_shipped:
            return "as_shipped" in marks or "unannotated" in marks
        return marks.isdisjoint({"annotations", "unannotated"} - {checked})

    config.hook.pytest_deselected(items=[item for item in items if not runs(item)])
    items[:] = [item for item in items if runs(item)]


@pytest.fixture(autouse=True)
def _few_programs() -> Iterator[None]:
    """Hundreds of compiled programs fill a gigabyte: then they are given up, and read from the disk if asked again."""
    yield
    if "jax" in sys.modules and resident() > MOST:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)


MOST = 900e6
"""Bytes."""


def resident() -> float:
    """Bytes of memory that this process holds, where the system says so."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if told.exists() else 0.0
