"""Fitted Q-iteration for continuous actions: from transitions, logged or collected, to a controller."""

from fittedq.agent import Agent
from fittedq.api import load, resume, train
from fittedq.errors import UserError
from fittedq.types import Box, Transition

__all__ = ["Agent", "Box", "Transition", "UserError", "load", "resume", "train"]
