"""Critic × set → maximizer: which one fits a critic over a set of actions.

The exact maximizers enter themselves in `exact` and `proven`, each beside its class, and one of your own does the same:

    @exact.register
    def _(critic: MyCritic, action_set, effort) -> AbstractMaximizer | None:
        return MyArgmax() if action_set.separable else None
"""

from __future__ import annotations

from typing import Any

from fittedq.actions.base import AbstractActionSet
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer, Effort, exact, proven
from fittedq.maximize.exact import quadratic, sweep, trees
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.proofs import proven as certificates
from fittedq.types import AbstractCritic

REGISTERED = (quadratic, sweep, trees, certificates)
"""The modules whose maximizers are in `exact` and `proven` once this one is imported."""


def auto(critic: AbstractCritic, action_set: AbstractActionSet) -> AbstractMaximizer[Any]:
    """An exact maximizer where there is a quick one, else the local search that the critic allows."""
    found = exact(critic, action_set, Effort())
    if found is not None and found.quick:
        return found
    return ProjectedAscent() if critic.has_gradient else CrossEntropy()


def only_exact(critic: AbstractCritic, action_set: AbstractActionSet) -> AbstractMaximizer:
    """The exact maximizer, however long it takes; a `UserError` where there is none."""
    found = exact(critic, action_set, Effort())
    if found is None:
        raise UserError(
            f"setting maximizer: there is no exact one for a {type(critic).__name__} with {action_set.size} action "
            f"dimensions in a {type(action_set).__name__}, only in a box for trees and polynomials of degree 2; "
            "take maximizer=auto."
        )
    return found


def only_certified(critic: AbstractCritic, action_set: AbstractActionSet) -> AbstractMaximizer:
    """The one that proves its answer within a tolerance, of a critic that has no exact one; else a `UserError`."""
    found = proven(critic, action_set, Effort())
    if not isinstance(found, certificates.CertifiedArgmax):
        raise UserError(
            f"setting maximizer: certified bounds networks, found a {type(critic).__name__}; take maximizer=auto."
        )
    return found


RULES = {"auto": auto, "exact": only_exact, "certified": only_certified}
"""What the words of a setting mean."""


__all__ = ["RULES", "AbstractMaximizer", "Effort", "auto", "exact", "only_certified", "only_exact", "proven"]
