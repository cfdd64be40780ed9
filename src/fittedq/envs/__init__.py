"""Environments: Gymnasium's and JAX's behind one source each."""

from fittedq.envs.gymnax import Gymnax as Gymnax
