"""Every array annotation of the library is checked in every test; whole numbers count as numbers (PEP 484)."""

from __future__ import annotations

import os

# Programs are compiled for speed of compilation: the tests run hundreds of small ones, each for a moment.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

from jaxtyping import install_import_hook

install_import_hook("fittedq", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
