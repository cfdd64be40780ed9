"""Fitted Q-iteration for continuous actions: from transitions, logged or collected, to a controller."""

from fittedq.action_sets import Limits, Mixed, Polytope, StateBox
from fittedq.agent import Agent
from fittedq.api import fit, load, resume, train
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.types import Box, Transition

__all__ = [
    "Agent",
    "Box",
    "Dataset",
    "Limits",
    "Mixed",
    "Polytope",
    "StateBox",
    "Transition",
    "UserError",
    "fit",
    "load",
    "resume",
    "train",
]
