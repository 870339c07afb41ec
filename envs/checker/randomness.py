"""Rules of seeds: the same trajectories again, others for other seeds, and rows that mind nobody else."""

from __future__ import annotations

from typing import Any

from lssvwm.envs.checker.data import difference
from lssvwm.envs.checker.driver import Actions, SubjectError, single_events
from lssvwm.envs.checker.subject import Subject, first_difference, row_difference

_OTHER_SEEDS = (1009, 2003, 3001)


def seeds(subject: Subject) -> bool:
    """The same seed twice, in a fresh environment, and none; whether runs can be repeated at all."""
    found, seed = subject.found, subject.wanted.seed
    different = first_difference(subject.base, subject.play())
    if different:
        found.add("seed", f"reset(seed={seed}) and the same actions again give another trajectory", different)
    else:
        subject.renew()
        if different := first_difference(subject.base, subject.play()):
            found.add("seed", f"reset(seed={seed}) gives another trajectory in a fresh environment", different)
    if not found.has("seed"):
        _starts(subject)
    if found.has("seed"):
        found.note("what compares two runs is not checked, since runs cannot be repeated")
    return not found.has("seed")


def _starts(subject: Subject) -> None:
    found, seed = subject.found, subject.wanted.seed
    first = _first(subject, seed)
    others = [_first(subject, seed + offset) for offset in _OTHER_SEEDS]
    varied = any(difference(first, other) is not None for other in others)
    if not varied:
        found.note("all seeds begin with the same observations, so whether rows get seeds of their own is not checked")
    elif subject.wanted.num_envs > 1 and all(
        difference(rows[0], row) is None for rows in (first, *others) for row in rows[1:]
    ):
        found.add("seed-rows", "all rows begin with the same observation whatever the seed: seed them differently")
    one, two = _unseeded(subject, seed), _unseeded(subject, seed)
    if difference(one, two) is not None:
        found.add("seed", "reset() without a seed cannot be repeated: go on with the random numbers of the last seed")
    elif varied and all(difference(first, rows) is None for rows in one):
        found.add("seed", "reset() without a seed repeats the episode of the last seed: go on with its random numbers")


def _first(subject: Subject, seed: int) -> tuple[Any, ...]:
    driver = subject.drive()
    driver.reset(seed)
    return tuple(driver.last)


def _unseeded(subject: Subject, seed: int) -> tuple[Any, ...]:
    driver = subject.drive()
    driver.reset(seed)
    seen = []
    for _ in range(3):
        driver.reset()
        seen.append(tuple(driver.last))
    return tuple(seen)


def rows_apart(subject: Subject) -> None:
    """A seed for every row, and whether a row minds what its neighbours do."""
    found, rows = subject.found, subject.wanted.num_envs
    try:
        subject.listed = subject.play(subject.seeds())
    except SubjectError as failure:
        found.add("seed-list", f"seeds of single rows are not taken, {failure}", strict=True)
        found.note("rows cannot be seeded one by one: their independence and single environments are not checked")
        subject.renew()
        return
    if different := first_difference(subject.base, subject.listed):
        found.add("seed-list", "reset(seed=s) is not reset(seed=[s, s + 1, ...])", different, strict=True)
    kept = rows // 2
    if rows < 2:
        found.note("one row has no neighbours: the independence of rows is not checked")
    else:
        driver = subject.drive()
        driver.actions = _neighbours_act(subject, kept)
        elsewhere = [seed if row == kept else seed + 5003 for row, seed in enumerate(subject.seeds())]
        changed = driver.play(list(elsewhere), subject.wanted.steps)
        if different := row_difference(subject.listed[kept], changed[kept], subject.wanted.tolerance):
            found.add("crosstalk", f"row {kept} changes with the seeds and actions of other rows", different)
            return
    subject.independent = True


def _neighbours_act(subject: Subject, kept: int) -> Actions:
    same, other = subject.actions(), subject.actions(1)

    class Mixed(Actions):
        def of(self, row: int, index: int) -> Any:
            return (same if row == kept else other).of(row, index)

    return Mixed(subject.env.single_action_space, subject.wanted.num_envs, 0)


def single(subject: Subject) -> None:
    """Every row equals the single environment with its seed."""
    make, found = subject.wanted.single, subject.found
    if make is None:
        found.note("no single environment was given to compare rows with")
        return
    if subject.listed is None:
        return  # which has been noted
    if not subject.independent:
        found.note("rows are not compared with the single environment, since they are not independent")
        return
    env = make()
    try:
        vector, one = subject.env, env
        for name, mine, other in (
            ("observation", vector.single_observation_space, one.observation_space),
            ("action", vector.single_action_space, one.action_space),
        ):
            if mine != other:
                found.add("single", f"single_{name}_space is {mine}, the single environment has {other}")
                return
        for row in sorted({0, subject.wanted.num_envs - 1}):
            seen = subject.listed[row]
            alone = single_events(env, subject.actions(), row, subject.wanted.seed + row, len(seen))
            if different := row_difference(seen, alone, subject.wanted.tolerance):
                found.add("single", f"row {row} differs from the single environment of the same seed", different)
                return
    finally:
        env.close()
