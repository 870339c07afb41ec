"""Rules of what is put around an environment: Gymnasium's vector wrappers, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorObservationWrapper
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from lssvwm.envs.checker.case import Case, first_difference
from lssvwm.envs.checker.data import difference, frozen, leaves
from lssvwm.envs.checker.driver import CaseError, Result, guarded

_COUNTS_SAME_STEP = (1, 4)
"""Since this version RecordEpisodeStatistics counts SAME_STEP rightly (Gymnasium #1624)."""


if TYPE_CHECKING:
    _ObservationWrapper = VectorObservationWrapper[Any, Any, Any, Any]
else:  # takes no type arguments before Gymnasium 1.4
    _ObservationWrapper = VectorObservationWrapper


class _Same(_ObservationWrapper):
    """As all of Gymnasium's observation wrappers, and changes nothing."""

    def observations(self, observations: Any) -> Any:
        return observations


def wrappers(case: Case) -> None:
    """Wrappers that Gymnasium offers for this mode run, change nothing, and count what happened."""
    found = case.findings
    if not case.settings.wrappers:
        return
    if found.has("autoreset-mode"):
        found.note("wrappers are not checked: they read metadata['autoreset_mode']")
        return
    first = case.drive().reset(case.settings.seed).observation
    if any(isinstance(leaf, torch.Tensor) for _, leaf in leaves(first)):
        found.note("Gymnasium's wrappers take numpy arrays: they are not checked with tensors")
        return
    for wrap in (RecordEpisodeStatistics, DictInfoToList, _Same):
        if wrap is _Same and case.mode is AutoresetMode.SAME_STEP:
            continue  # Gymnasium's observation wrappers refuse this mode
        try:
            _wrapped(case, wrap)
        except CaseError as failure:
            name = "VectorObservationWrapper" if wrap is _Same else wrap.__name__
            found.add("wrapper", f"{name} does not work around it, {failure}")
            case.renew()


def _wrapped(case: Case, wrap: Any) -> None:
    wrapped: VectorEnv[Any, Any, Any] = guarded("wrapping", wrap, case.env)
    case.kept.append(wrapped)  # before Gymnasium 1.4 a wrapper that nobody holds closes what it wraps
    counted: list[tuple[int, int, float]] = []

    def count(result: Result) -> None:
        episode = frozen(result.info).get("episode") if isinstance(result.info, dict) else None
        if isinstance(episode, dict):
            rows = np.flatnonzero(result.info["_episode"])
            counted.extend((int(row), int(episode["l"][row]), float(episode["r"][row])) for row in rows)

    played = case.drive(wrapped, watchers=(count,)).play(case.settings.seed, case.settings.steps)
    if text := first_difference(case.base, played):
        case.findings.add("wrapper", f"the run is another one inside {wrap.__name__}", text)
    if wrap is RecordEpisodeStatistics and _counts_rightly(case):
        expected = _episodes(played)
        if text := difference(tuple(sorted(counted)), tuple(sorted(expected)), 1e-4):
            case.findings.add("wrapper", "RecordEpisodeStatistics counts other lengths or returns than the run", text)


def _counts_rightly(case: Case) -> bool:
    version = tuple(int(part) for part in gym.__version__.split(".")[:2])
    if case.mode is AutoresetMode.SAME_STEP and version < _COUNTS_SAME_STEP:
        return False
    # Gymnasium's own environments take reset_mask out of the options, and the wrapper then forgets every row.
    return case.mode is not AutoresetMode.DISABLED or case.findings.strict


def _episodes(rows: Any) -> list[tuple[int, int, float]]:
    found = []
    for row, events in enumerate(rows):
        length, total = 0, 0.0
        for event in events:
            length, total = (0, 0.0) if event.reward is None else (length + 1, total + event.reward)
            if event.done:
                found.append((row, length, total))
    return found


def closing(case: Case) -> None:
    """Close twice; the last rule, for the environment is gone afterwards."""
    env, found = case.env, case.findings
    driver = case.drive()
    driver.reset(case.settings.seed)
    try:
        guarded("close()", env.close)
        guarded("close() for the second time", env.close)
    except CaseError as failure:
        found.add("close", f"{failure}: let it pass")
        return
    if not env.closed:
        found.add("close", "closed is still False after close(): override close_extras, not close", strict=True)
    try:
        driver.step()
        found.add(
            "close", "it can still be stepped after close(): raise gymnasium.error.ClosedEnvironmentError", strict=True
        )
    except CaseError:
        pass  # as it should be
