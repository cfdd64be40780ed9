"""Environments that give pictures of themselves."""

from __future__ import annotations

from dataclasses import replace

from fittedq.envs.flat import FlatEnv
from fittedq.envs.plant import AnyEnv, resolve
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError


def rendering(env: AnyEnv) -> FlatEnv:
    """The environment, made to give pictures."""
    if isinstance(env, str):
        env = NamedEnv(env)
    if isinstance(env, NamedEnv):
        if env.id.startswith(("jax/", "gymnax/")):
            raise UserError(f"environment {env.id!r} is compiled and renders nothing; give a Gymnasium one with --env.")
        env = replace(env, kwargs={**env.kwargs, "render_mode": "rgb_array"})
    made = resolve(env).make()
    if made.render_mode != "rgb_array":
        made.close()
        raise UserError(f"environment {made.label}: its render_mode is {made.render_mode!r}, expected 'rgb_array'.")
    return made
