"""The same networks on the host: NumPy leaves, plain Python objects, no dispatch.

An Equinox module binds a method by building a pytree, some 30 µs each time; acting at every environment step would
spend ten times its arithmetic on that. A view holds the module's fields and its undecorated methods instead, so each
formula still stands once, in the module.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax._src.xla_bridge import backends_are_initialized

from fittedq.approx.packing import Packing
from fittedq.arrays import Tree
from fittedq.errors import UserError


class Fork:
    """Whether this process was forked from one in which JAX ran: its threads did not come along, so that compiled code
    would wait for them for ever."""

    lost_threads = False

    @staticmethod
    def note() -> None:
        """Called in a process that was just forked."""
        Fork.lost_threads = Fork.lost_threads or backends_are_initialized()


os.register_at_fork(after_in_child=Fork.note)


def refuse_forked(what: str) -> None:
    """A UserError where JAX lost its threads."""
    if Fork.lost_threads:
        raise UserError(
            f"{what} needs JAX, whose threads do not survive a fork; start the process with spawn or forkserver "
            "(multiprocessing.get_context('spawn')). Acting with a policy network works in either."
        )


def to_host(module: Tree) -> Tree:
    """The same pytree with NumPy leaves."""
    return jax.tree.map(np.asarray, module)


def host_view(module: Tree) -> Tree:
    """A plain object with the fields and methods of `module`, in depth; its leaves become NumPy arrays."""
    if isinstance(module, tuple):
        return tuple(host_view(item) for item in module)
    if isinstance(module, jax.Array):
        return np.asarray(module)
    if not isinstance(module, eqx.Module):
        return module
    view = object.__new__(_plain_class(type(module)))
    for name in module.__dataclass_fields__:
        setattr(view, name, host_view(getattr(module, name)))
    return view


@functools.cache
def _plain_class(cls: type) -> type:
    methods: dict[str, Any] = {}
    for name in dir(cls):
        # Read from the class, a method is the function that was written.
        member = inspect.getattr_static(cls, name)
        if isinstance(member, property | staticmethod | classmethod):
            methods[name] = member
        elif (name == "__call__" or not name.startswith("__")) and inspect.isfunction(getattr(cls, name)):
            methods[name] = getattr(cls, name)
    return type(cls.__name__, (), methods)


class HostCopy:
    """A host view of a part of a packed tree, refreshed in place."""

    def __init__(self, packing: Packing, buffers: Sequence[Any], part: Callable[[Any], Any]):
        self._places = packing.places(part)
        held = (buffer if place in self._places else () for place, buffer in enumerate(buffers))
        self._buffers = [np.array(buffer) for buffer in held]
        self.view = host_view(part(packing.unpack(self._buffers)))

    def refresh(self, buffers: Sequence[Any]) -> None:
        """Copy the newest buffers over the old."""
        for place in self._places:
            # The view it takes of a device buffer ends here, so the buffer can be donated.
            np.copyto(self._buffers[place], buffers[place])
