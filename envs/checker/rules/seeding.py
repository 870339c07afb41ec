"""Rules of seeds: the same trajectories again, others for other seeds, and rows that mind nobody else."""

from __future__ import annotations

from typing import Any

from lssvwm.envs.checker.case import Case, first_difference, row_difference
from lssvwm.envs.checker.data import difference
from lssvwm.envs.checker.driver import Actions, CaseError, single_events

_OTHER_SEEDS = (1009, 2003, 3001)


def seeds(case: Case) -> bool:
    """The same seed twice, in a fresh environment, and none; whether runs can be repeated at all."""
    found, seed = case.findings, case.settings.seed
    different = first_difference(case.base, case.play())
    if different:
        found.add("seed", f"reset(seed={seed}) and the same actions again give another trajectory", different)
    else:
        case.renew()
        if different := first_difference(case.base, case.play()):
            found.add("seed", f"reset(seed={seed}) gives another trajectory in a fresh environment", different)
    if not found.has("seed"):
        _starts(case)
    if found.has("seed"):
        found.note("what compares two runs is not checked, since runs cannot be repeated")
    return not found.has("seed")


def _starts(case: Case) -> None:
    found, seed = case.findings, case.settings.seed
    first = _first(case, seed)
    others = [_first(case, seed + offset) for offset in _OTHER_SEEDS]
    varied = any(difference(first, other) is not None for other in others)
    if not varied:
        found.note("all seeds begin with the same observations, so whether rows get seeds of their own is not checked")
    elif case.settings.num_envs > 1 and all(
        difference(rows[0], row) is None for rows in (first, *others) for row in rows[1:]
    ):
        found.add("seed-rows", "all rows begin with the same observation whatever the seed: seed them differently")
    one, two = _unseeded(case, seed), _unseeded(case, seed)
    if difference(one, two) is not None:
        found.add("seed", "reset() without a seed cannot be repeated: go on with the random numbers of the last seed")
    elif varied and all(difference(first, rows) is None for rows in one):
        found.add("seed", "reset() without a seed repeats the episode of the last seed: go on with its random numbers")


def _first(case: Case, seed: int) -> tuple[Any, ...]:
    driver = case.drive()
    driver.reset(seed)
    return tuple(driver.last)


def _unseeded(case: Case, seed: int) -> tuple[Any, ...]:
    driver = case.drive()
    driver.reset(seed)
    seen = []
    for _ in range(3):
        driver.reset()
        seen.append(tuple(driver.last))
    return tuple(seen)


def row_independence(case: Case) -> None:
    """A seed for every row, and whether a row minds what its neighbours do."""
    found, rows = case.findings, case.settings.num_envs
    try:
        case.listed = case.play(case.seeds())
    except CaseError as failure:
        found.add("seed-list", f"seeds of single rows are not taken, {failure}", strict=True)
        found.note("rows cannot be seeded one by one: their independence and single environments are not checked")
        case.renew()
        return
    if different := first_difference(case.base, case.listed):
        found.add("seed-list", "reset(seed=s) is not reset(seed=[s, s + 1, ...])", different, strict=True)
    kept = rows // 2
    if rows < 2:
        found.note("one row has no neighbours: the independence of rows is not checked")
    else:
        driver = case.drive()
        driver.actions = _neighbours_act(case, kept)
        elsewhere = [seed if row == kept else seed + 5003 for row, seed in enumerate(case.seeds())]
        changed = driver.play(list(elsewhere), case.settings.steps)
        if different := row_difference(case.listed[kept], changed[kept], case.settings.tolerance):
            found.add("crosstalk", f"row {kept} changes with the seeds and actions of other rows", different)
            return
    case.independent = True


def _neighbours_act(case: Case, kept: int) -> Actions:
    same, other = case.actions(), case.actions(1)

    class Mixed(Actions):
        def of(self, row: int, index: int) -> Any:
            return (same if row == kept else other).of(row, index)

    return Mixed(case.env.single_action_space, case.settings.num_envs, 0)


def single(case: Case) -> None:
    """Every row equals the single environment with its seed."""
    make, found = case.settings.single, case.findings
    if make is None:
        found.note("no single environment was given to compare rows with")
        return
    if case.listed is None:
        return  # which has been noted
    if not case.independent:
        found.note("rows are not compared with the single environment, since they are not independent")
        return
    env = make()
    try:
        vector, one = case.env, env
        for name, mine, other in (
            ("observation", vector.single_observation_space, one.observation_space),
            ("action", vector.single_action_space, one.action_space),
        ):
            if mine != other:
                found.add("single", f"single_{name}_space is {mine}, the single environment has {other}")
                return
        for row in sorted({0, case.settings.num_envs - 1}):
            seen = case.listed[row]
            alone = single_events(env, case.actions(), row, case.settings.seed + row, len(seen))
            if different := row_difference(seen, alone, case.settings.tolerance):
                found.add("single", f"row {row} differs from the single environment of the same seed", different)
                return
    finally:
        env.close()
