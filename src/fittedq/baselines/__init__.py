"""Controllers that engineers have: PID, LQR, a constant, code of their own, an imitation of a log.

    pid = PID(2.0, 0.1, tracked=Tracked(1, setpoint=2), low=0.0, high=12.0, dt=2.0, bias=6.0)
    pid.evaluate("jax/TwoTanks-v0", episodes=20)

Each is an `AbstractController`, which is evaluated and compared as an agent is.
"""

from fittedq.acting.episodes import AbstractController, ControlLoop
from fittedq.baselines.cloned import Cloned
from fittedq.baselines.linear_model import LinearModel
from fittedq.baselines.logged import LoggedPlant
from fittedq.baselines.lqr import LQR
from fittedq.baselines.pid import PID, Loops
from fittedq.baselines.search import Searched, search, tuned_pid
from fittedq.baselines.simple import Called, Constant
from fittedq.baselines.step_response import FirstOrderDelay, PIDGains, step_response
from fittedq.diagnose.control import Tracked

__all__ = [
    "LQR",
    "PID",
    "AbstractController",
    "Called",
    "Cloned",
    "Constant",
    "ControlLoop",
    "FirstOrderDelay",
    "LinearModel",
    "LoggedPlant",
    "Loops",
    "PIDGains",
    "Searched",
    "Tracked",
    "search",
    "step_response",
    "tuned_pid",
]
