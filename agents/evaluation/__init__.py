"""How good a policy is in the real environment, beside what it promises itself in its own dreams."""

from lssvwm.agents.evaluation.imagined import dreamt_returns, imagined_returns
from lssvwm.agents.evaluation.real import Evaluation, Judged, evaluate, rows_for

__all__ = ["Evaluation", "Judged", "dreamt_returns", "evaluate", "imagined_returns", "rows_for"]
