"""How well a world model dreams: real episodes continued by it, and what its continuations and its memory lose."""

from lssvwm.worldmodel.evaluation.along import Dreamt, dream_along
from lssvwm.worldmodel.evaluation.clips import Windows, draw_windows, read_windows
from lssvwm.worldmodel.evaluation.heads import HeadFigures, judge_heads, judge_heads_on_real
from lssvwm.worldmodel.evaluation.judging import Judged, evaluate_clips, judge, judge_cold_start, trial_for
from lssvwm.worldmodel.evaluation.metrics import Curve, compare
from lssvwm.worldmodel.evaluation.probes import ProbeConfig, ProbeResult, fit_probe
from lssvwm.worldmodel.evaluation.probing import Probed, probe_memory
from lssvwm.worldmodel.evaluation.rollout import Rollout, rollout
from lssvwm.worldmodel.evaluation.trials import Corruption, Protocol, Trial, make_trial

__all__ = [
    "Corruption",
    "Curve",
    "Dreamt",
    "HeadFigures",
    "Judged",
    "ProbeConfig",
    "ProbeResult",
    "Probed",
    "Protocol",
    "Rollout",
    "Trial",
    "Windows",
    "compare",
    "draw_windows",
    "dream_along",
    "evaluate_clips",
    "fit_probe",
    "judge",
    "judge_cold_start",
    "judge_heads",
    "judge_heads_on_real",
    "make_trial",
    "probe_memory",
    "read_windows",
    "rollout",
    "trial_for",
]
