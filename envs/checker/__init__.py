"""`check_vector_env`: does a vector environment keep the contract? Gymnasium's own checkers look at single ones only.

    from lssvwm.envs import check_vector_env
    check_vector_env("CartPole-v1")                      # an id, in the mode that it declares
    check_vector_env(Mine, modes=["NextStep", "SameStep", "Disabled"])  # called as Mine(num_envs=, autoreset_mode=)

or `python -m lssvwm.envs.checker CartPole-v1`. What is asked for stands in `CODES` and in docs/checker.md.
"""

from __future__ import annotations

from lssvwm.envs.checker.check import check_vector_env as check_vector_env
from lssvwm.envs.checker.check import from_id as from_id
from lssvwm.envs.checker.check import single_from_id as single_from_id
from lssvwm.envs.checker.report import CODES as CODES
from lssvwm.envs.checker.report import ConformanceError as ConformanceError
from lssvwm.envs.checker.report import Note as Note
from lssvwm.envs.checker.report import Report as Report
from lssvwm.envs.checker.report import Violation as Violation
