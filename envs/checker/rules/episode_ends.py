"""Rules of where an episode ends and the next begins."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from lssvwm.envs.checker.case import Case, first_difference
from lssvwm.envs.checker.data import difference, frozen
from lssvwm.envs.checker.driver import CaseError, Result, final_rows
from lssvwm.envs.checker.rules.interface import Watcher

_UNREADABLE = ("observation", "reward", "flags", "output")


def first_run(case: Case) -> bool:
    """Play once, look at all that comes back, keep it as `case.base`; whether the other rules can be looked at."""
    driver, readable = case.drive(watchers=(Watcher(case), EndWatcher(case))), True
    try:
        case.base = driver.play(case.settings.seed, case.settings.steps)
    except CaseError as failure:
        case.findings.add(failure.code, str(failure))
        readable = False
    if driver.modified:
        case.findings.add("actions", "step() writes into the actions that it is given: copy them first")
    if not readable or case.findings.has(*_UNREADABLE):
        case.findings.note("seeds, episodes, copies and the rest are not checked before the above is right")
        return False
    if not case.ends:
        case.findings.note(
            f"no episode ended within {case.settings.steps} steps, so nothing about the end of episodes is checked: "
            "raise steps, or give the environment a shorter max_episode_steps"
        )
    return True


class EndWatcher:
    """Looks at the steps on which rows finish or begin again."""

    def __init__(self, case: Case) -> None:
        self.case, self.findings = case, case.findings

    def __call__(self, result: Result) -> None:
        """Check one result of step."""
        if result.reward is None:
            return
        reward, terminated, truncated = frozen((result.reward, result.terminated, result.truncated))
        if result.begun.any():
            if np.any(reward[result.begun] != 0):
                self.findings.add("next-step", "the step that resets a finished row gives a reward: it has to be 0")
            if np.any((terminated | truncated)[result.begun]):
                self.findings.add("next-step", "the step that resets a finished row sets terminated or truncated again")
        if self.case.mode is AutoresetMode.SAME_STEP and isinstance(result.info, dict):
            self._final(result, (terminated | truncated).astype(bool))

    def _final(self, result: Result, done: Any) -> None:
        info, found, env = result.info, self.findings, self.case.env
        for key in ("final_obs", "final_info"):
            mask = info.get(f"_{key}")
            marked = np.zeros_like(done) if mask is None else np.asarray(frozen(mask), bool)
            code = "final-obs" if key == "final_obs" else "final-info"
            if done.any() and (key not in info or mask is None):
                found.add(
                    code, f"a row ended but info has no '{key}' and '_{key}': report them on that step (SAME_STEP)"
                )
            elif not np.array_equal(marked, done):
                example = f"{marked.tolist()} where {done.tolist()} have"
                found.add(code, f"info['_{key}'] marks other rows than those that have ended", example)
        if not (done.any() and "final_obs" in info):
            return
        rows = final_rows(env.observation_space, info, len(done))
        if any(rows[row] is None for row in np.flatnonzero(done)):
            found.add("final-obs", "info['final_obs'] lacks the observation of a row that ended")
        elif not all(env.single_observation_space.contains(rows[row]) for row in np.flatnonzero(done)):
            found.add("final-obs", "info['final_obs'] holds observations outside single_observation_space")


def ends(case: Case, repeatable: bool) -> None:
    """Final observations, time limit, ignored actions (if runs can be repeated), and what becomes of finished rows."""
    if not case.ends:
        return
    _final_is_not_first(case)
    _time_limit(case)
    if case.mode is AutoresetMode.NEXT_STEP and repeatable:
        different = first_difference(case.base, case.play(salt=1))
        if different:
            case.findings.add(
                "next-step", "the action on the step that resets a row has an effect: ignore it", different
            )
    if case.mode is AutoresetMode.DISABLED:
        _finished_row(case)


def _final_is_not_first(case: Case) -> None:
    pairs = [
        (event.observation, after.observation)
        for row in case.base
        for event, after in itertools.pairwise(row)
        if event.done and event.observation is not None
    ]
    transitions = [event.observation for row in case.base for event in row if event.reward is not None]
    moves = any(difference(transitions[0], other) is not None for other in transitions[1:] if other is not None)
    if len(pairs) > 1 and moves and all(difference(*pair) is None for pair in pairs):
        name = "info['final_obs']" if case.mode is AutoresetMode.SAME_STEP else "the observation of the last step"
        case.findings.add(
            "final-obs", f"{name} is always the first one of the next episode: keep the one that ended it"
        )


def _time_limit(case: Case) -> None:
    limit = case.settings.max_episode_steps
    if limit is None and (spec := getattr(case.env.unwrapped, "spec", None)) is not None:
        limit = spec.kwargs.get("max_episode_steps", spec.max_episode_steps)
    if limit is None or limit < 1:
        case.findings.note("no max_episode_steps is known, so truncation is not checked: give it to check_vector_env")
        return
    last: list[Any] = []  # the last event of every episode as long as the limit
    shorter = False
    for row in case.base:
        length = 0
        for event in row:
            length = 0 if event.reward is None else length + 1
            if length > limit or (length == limit and not event.done):
                case.findings.add("time-limit", f"an episode goes on after {limit} steps: truncate it at the limit")
                return
            if length == limit:
                last.append(event)
            shorter |= event.done and length < limit
    if not last:
        case.findings.note(f"no episode reached max_episode_steps={limit}, so truncation is not checked")
    elif len(last) > 1 and not shorter and all(event.terminated and not event.truncated for event in last):
        case.findings.add(
            "time-limit", f"every episode terminates after exactly {limit} steps: report that as truncated"
        )


def _finished_row(case: Case) -> None:
    driver = case.drive()
    driver.reset(case.settings.seed)
    while not driver.ended.any():  # the base run came to an end
        driver.step()
    row = int(np.flatnonzero(driver.ended)[0])
    driver.mode = AutoresetMode.NEXT_STEP  # or the driver would reset the row
    try:
        driver.step()
    except CaseError:
        case.renew()  # as it should be; a row of several processes may be out of step now
        return
    case.findings.add("finished-row", f"row {row} is finished and can still be stepped: raise an error", strict=True)
