"""How much memory there is, and the refusal of what needs more, before any of it is claimed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fittedq.errors import UserError

GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may use (cgroup 2, cgroup 1)."""


def there_is() -> int:
    """Bytes this process can ever hold: the machine's memory, or less where its container or its limits say less."""
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in GROUP_LIMITS:
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue  # no such group, or "max"
    try:
        import resource
    except ModuleNotFoundError:
        return min(limits, default=2**63)
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limits, default=2**63)


def require(size: int, what: str, advice: str) -> None:
    """Raise `UserError` where `what` takes `size` bytes and this machine has fewer."""
    if size > there_is():
        raise UserError(f"{what} would take {amount(size)} of memory, and there is {amount(there_is())}; {advice}.")


def network_bytes(layers: Iterable[tuple[int, Sequence[int]]], batch: int) -> int:
    """Bytes of training perceptrons, at least: 4 Σ_l n_l Σ_i (5 w_i w_(i+1) + b w_(i+1)).

    `layers` has (members n, widths w from input to output) of each; a weight is held five times, live and frozen, as
    its gradient and as Adam's two moments, and the activations of `batch` rows are kept for the gradient.
    """
    return 4 * sum(
        members * sum(5 * fan_in * fan_out + batch * fan_out for fan_in, fan_out in itertools.pairwise(widths))
        for members, widths in layers
    )


def amount(size: int) -> str:
    """Bytes in words: 4.2 GiB."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}" if size < 1e6 * unit else f"{size / unit:.1e} {name}"
    return f"{size / 2**10:,.1f} KiB"
