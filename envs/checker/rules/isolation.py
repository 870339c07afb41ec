"""Rules of what must not reach: the caller's writes the environment, and a reset or step of some rows the others."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from lssvwm.envs.checker.case import Case, first_difference, row_difference
from lssvwm.envs.checker.data import difference, frozen
from lssvwm.envs.checker.driver import CaseError, Driver, Mask, Result
from lssvwm.envs.checker.rules.interface import Watcher


def mutation(case: Case) -> None:
    """Overwrite all that goes in and comes out; the run has to stay the same."""
    if different := first_difference(case.base, case.play(scribbling=True)):
        case.findings.add(
            "mutation", f"writing into what reset and step took and gave changes the run ({different}): copy"
        )
        case.renew()


def partial_reset(case: Case) -> None:
    """Reset one row in the middle of its episode. Gymnasium asks for this of DISABLED only."""
    found, disabled = case.findings, case.mode is AutoresetMode.DISABLED
    if case.settings.num_envs < 2:
        found.note("one row has no neighbours: partial resets are not checked")
        return
    if not disabled and not case.findings.strict:
        found.note(f"partial resets are not checked: strict asks for them in {case.mode.name} too")
        return
    infos: list[Result] = []
    driver = case.drive(watchers=(infos.append,))
    driver.reset(case.seeds() if case.listed is not None else case.settings.seed)
    row = case.settings.num_envs // 2
    for _ in range(case.settings.steps):
        driver.step()
        if not driver.ended.any():
            break
    else:
        found.note("rows end at every step, so partial resets are not checked")
        return
    try:
        _reset_row(case, driver, row, infos)
    except CaseError as failure:
        found.add("partial-reset", f"resetting row {row} alone fails, {failure}")
        case.renew()


def _reset_row(case: Case, driver: Driver, row: int, infos: list[Result]) -> None:
    found, rows, tolerance = case.findings, case.settings.num_envs, case.settings.tolerance
    mask = np.arange(rows) == row
    options = {"reset_mask": mask.copy()}
    before, last_info = driver.last, frozen(infos[-1].info)
    seed: list[int | None] = [case.settings.seed + 77 if here else None for here in mask]
    result = driver.reset(seed if case.independent else None, mask)
    begun = driver.rows[row][-1]
    for other in np.flatnonzero(~mask):
        if text := difference(before[other], driver.last[other]):
            found.add("partial-reset", f"resetting row {row} changes the observation of row {other} ({text}): keep it")
            return
    _kept_info(case, last_info, frozen(result.info), ~mask)
    if case.independent and case.listed is not None:
        for _ in range(case.settings.steps // 2):
            driver.step()
        for other in np.flatnonzero(~mask):
            if text := row_difference(case.listed[other], driver.rows[other], tolerance):
                found.add("partial-reset", f"resetting row {row} changes what row {other} does later", text)
                return
        fresh = case.drive()
        fresh.reset([case.settings.seed + 77] * rows)
        if text := difference(fresh.last[row], begun.observation, tolerance):
            found.add("partial-reset", "a row reset alone with a seed begins elsewhere than in a full reset", text)
    elif not case.independent:
        found.note("rows are not independent, so what they do after a partial reset of others is not checked")
    case.env.reset(seed=case.settings.seed, options=options)
    if list(options) != ["reset_mask"] or not np.array_equal(options["reset_mask"], mask):
        found.add(
            "options", "reset() changes the caller's options, so that using them twice resets all rows", strict=True
        )


def _kept_info(case: Case, before: Any, after: Any, kept: Mask) -> None:
    for key, values in after.items():
        mask = np.asarray(after.get(f"_{key}", False))
        if not isinstance(values, np.ndarray) or mask.shape != kept.shape or f"_{key}" not in before:
            continue
        for row in np.flatnonzero(mask & kept & before[f"_{key}"]):
            if text := difference(before[key][row], values[row]):
                case.findings.add(
                    "partial-reset",
                    f"info['{key}'] of row {row}, which is not reset, changes ({text}): keep or unmask it",
                )


def masked_step(case: Case) -> None:
    """Advance some rows at a time, where `step` takes `mask`."""
    if "mask" not in inspect.signature(case.env.step).parameters:
        return
    found, rows = case.findings, case.settings.num_envs
    generator = np.random.default_rng(case.settings.seed)
    results: list[Result] = []
    driver = case.drive(watchers=(Watcher(case), results.append))
    driver.reset(case.settings.seed)
    for _ in range(case.settings.steps):
        mask = generator.random(rows) < 0.6
        before = driver.last
        driver.step(mask)
        reward, terminated, truncated, info = frozen(
            (results[-1].reward, results[-1].terminated, results[-1].truncated, results[-1].info)
        )
        for row in np.flatnonzero(~mask):
            if text := difference(before[row], driver.last[row]):
                found.add("masked-step", "the observation of a row that is not stepped changes", f"row {row} {text}")
            if reward[row] or terminated[row] or truncated[row]:
                found.add("masked-step", "a row that is not stepped has a reward or an end: give 0 and False")
            for key in [key for key in info if f"_{key}" in info and np.asarray(info[f"_{key}"])[row]]:
                found.add("masked-step", f"info['_{key}'] is True for a row that is not stepped")
    if not case.independent:
        found.note("rows are not independent, so stepping them by turns is not compared with stepping them together")
    elif text := first_difference(case.base, driver.rows, case.settings.tolerance):
        found.add("masked-step", "stepping rows by turns gives another run than stepping them together", text)
