"""Rules of what must not reach: the caller's writes the environment, and a reset or step of some rows the others."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from lssvwm.envs.checker.data import difference, frozen
from lssvwm.envs.checker.driver import Driver, Mask, Result, SubjectError
from lssvwm.envs.checker.interface import Watcher
from lssvwm.envs.checker.subject import Subject, first_difference, row_difference


def mutation(subject: Subject) -> None:
    """Overwrite all that goes in and comes out; the run has to stay the same."""
    if different := first_difference(subject.base, subject.play(scribbling=True)):
        subject.found.add(
            "mutation", f"writing into what reset and step took and gave changes the run ({different}): copy"
        )
        subject.renew()


def partial_reset(subject: Subject) -> None:
    """Reset one row in the middle of its episode. Gymnasium asks for this of DISABLED only."""
    found, disabled = subject.found, subject.mode is AutoresetMode.DISABLED
    if subject.wanted.num_envs < 2:
        found.note("one row has no neighbours: partial resets are not checked")
        return
    if not disabled and not subject.strict:
        found.note(f"partial resets are not checked: strict asks for them in {subject.mode.name} too")
        return
    infos: list[Result] = []
    driver = subject.drive(watchers=(infos.append,))
    driver.reset(subject.seeds() if subject.listed is not None else subject.wanted.seed)
    row = subject.wanted.num_envs // 2
    for _ in range(subject.wanted.steps):
        driver.step()
        if not driver.ended.any():
            break
    else:
        found.note("rows end at every step, so partial resets are not checked")
        return
    try:
        _reset_row(subject, driver, row, infos)
    except SubjectError as failure:
        found.add("partial-reset", f"resetting row {row} alone fails, {failure}")
        subject.renew()


def _reset_row(subject: Subject, driver: Driver, row: int, infos: list[Result]) -> None:
    found, rows, tolerance = subject.found, subject.wanted.num_envs, subject.wanted.tolerance
    mask = np.arange(rows) == row
    options = {"reset_mask": mask.copy()}
    before, last_info = driver.last, frozen(infos[-1].info)
    seed: list[int | None] = [subject.wanted.seed + 77 if here else None for here in mask]
    result = driver.reset(seed if subject.independent else None, mask)
    begun = driver.rows[row][-1]
    for other in np.flatnonzero(~mask):
        if text := difference(before[other], driver.last[other]):
            found.add("partial-reset", f"resetting row {row} changes the observation of row {other} ({text}): keep it")
            return
    _kept_info(subject, last_info, frozen(result.info), ~mask)
    if subject.independent and subject.listed is not None:
        for _ in range(subject.wanted.steps // 2):
            driver.step()
        for other in np.flatnonzero(~mask):
            if text := row_difference(subject.listed[other], driver.rows[other], tolerance):
                found.add("partial-reset", f"resetting row {row} changes what row {other} does later", text)
                return
        fresh = subject.drive()
        fresh.reset([subject.wanted.seed + 77] * rows)
        if text := difference(fresh.last[row], begun.observation, tolerance):
            found.add("partial-reset", "a row reset alone with a seed begins elsewhere than in a full reset", text)
    elif not subject.independent:
        found.note("rows are not independent, so what they do after a partial reset of others is not checked")
    subject.env.reset(seed=subject.wanted.seed, options=options)
    if list(options) != ["reset_mask"] or not np.array_equal(options["reset_mask"], mask):
        found.add(
            "options", "reset() changes the caller's options, so that using them twice resets all rows", strict=True
        )


def _kept_info(subject: Subject, before: Any, after: Any, kept: Mask) -> None:
    for key, values in after.items():
        mask = np.asarray(after.get(f"_{key}", False))
        if not isinstance(values, np.ndarray) or mask.shape != kept.shape or f"_{key}" not in before:
            continue
        for row in np.flatnonzero(mask & kept & before[f"_{key}"]):
            if text := difference(before[key][row], values[row]):
                subject.found.add(
                    "partial-reset",
                    f"info['{key}'] of row {row}, which is not reset, changes ({text}): keep or unmask it",
                )


def masked_step(subject: Subject) -> None:
    """Advance some rows at a time, where `step` takes `mask`."""
    if "mask" not in inspect.signature(subject.env.step).parameters:
        return
    found, rows = subject.found, subject.wanted.num_envs
    generator = np.random.default_rng(subject.wanted.seed)
    results: list[Result] = []
    driver = subject.drive(watchers=(Watcher(subject), results.append))
    driver.reset(subject.wanted.seed)
    for _ in range(subject.wanted.steps):
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
    if not subject.independent:
        found.note("rows are not independent, so stepping them by turns is not compared with stepping them together")
    elif text := first_difference(subject.base, driver.rows, subject.wanted.tolerance):
        found.add("masked-step", "stepping rows by turns gives another run than stepping them together", text)
