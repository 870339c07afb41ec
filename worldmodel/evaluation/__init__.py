"""How well a world model dreams: real episodes continued by it, and what its continuations and its memory lose."""

from lssvwm.worldmodel.evaluation.metrics.frames import Curve, compare
from lssvwm.worldmodel.evaluation.metrics.heads import HeadFigures, judge_heads, judge_heads_on_real
from lssvwm.worldmodel.evaluation.probing.memory import Probed, probe_memory
from lssvwm.worldmodel.evaluation.probing.probes import ProbeConfig, ProbeResult, fit_probe
from lssvwm.worldmodel.evaluation.protocols.clips import Windows, draw_windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.judging import Judged, evaluate_clips, judge, judge_cold_start, trial_for
from lssvwm.worldmodel.evaluation.protocols.rollout import Dreamt, Rollout, dream_along, rollout
from lssvwm.worldmodel.evaluation.protocols.trials import Corruption, Protocol, Trial, make_trial

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
