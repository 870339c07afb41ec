"""`check_vector_env`: all rules, in every mode and output that is asked for."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from lssvwm.envs.checker.case import Case, CheckSettings, first_difference
from lssvwm.envs.checker.driver import CaseError
from lssvwm.envs.checker.report import ConformanceError, Findings, Report
from lssvwm.envs.checker.rules.episode_ends import ends, first_run
from lssvwm.envs.checker.rules.interface import declared
from lssvwm.envs.checker.rules.isolation import masked_step, mutation, partial_reset
from lssvwm.envs.checker.rules.seeding import row_independence, seeds, single
from lssvwm.envs.checker.rules.snapshots import pickles, snapshot
from lssvwm.envs.checker.rules.wrappers import closing, wrappers
from lssvwm.envs.factory import find_spec
from lssvwm.worldmodel.common.errors import InputError

AnyVectorEnv = VectorEnv[Any, Any, Any]

_COMPARING: tuple[Callable[[Case], None], ...] = (
    row_independence,
    single,
    mutation,
    partial_reset,
    masked_step,
    snapshot,
    pickles,
    wrappers,
)
"""The rules that compare two runs, in this order: later ones build on what `row_independence` finds."""


def check_vector_env(
    make: Callable[..., AnyVectorEnv] | str,
    *,
    num_envs: int = 3,
    modes: Sequence[AutoresetMode | str] | None = None,
    outputs: Sequence[str] | None = None,
    steps: int = 100,
    seed: int = 0,
    single: Callable[[], gym.Env[Any, Any]] | None = None,
    max_episode_steps: int | None = None,
    snapshots: bool | None = None,
    pickling: bool | None = None,
    wrappers: bool = True,
    strict: bool = False,
    tolerance: float = 1e-4,
) -> Report:
    """Check that a vector environment does what `gymnasium.vector.VectorEnv` promises to those who train in it.

    make: called as `make(num_envs=num_envs)`, several times; or a Gymnasium id, as in `gymnasium.make_vec`.
    modes: autoreset modes, each passed on as `autoreset_mode=`; None passes nothing and believes the metadata.
    outputs: "numpy" and "torch", each passed on as `output=`; None passes nothing and takes either.
    steps: of every run (>= 2). Long enough for several episodes to end, or else `notes` will say what was not seen.
    seed: of the environment and of the random actions.
    single: makes the environment that every row should equal. An id brings its own.
    max_episode_steps: the time limit; None takes that of `spec`.
    snapshots, pickling: None checks them where the environment offers get_state and set_state, or __getstate__.
    strict: also ask for what Gymnasium leaves open (in `CODES`: strict) and its own environments do not all do.
    tolerance: how far a row may be from the same row in other company: batches of other sizes round differently.

    Returns the report, whose `notes` tell what was not checked and why.
    Raises ConformanceError, which lists all violations, and InputError for arguments that make no sense.
    """
    if num_envs < 1 or steps < 2:
        raise InputError(f"num_envs={num_envs} and steps={steps}: give at least 1 and 2")
    if isinstance(make, str):
        single = single_from_id(make) if single is None else single
        make = functools.partial(from_id, make)
    known = [mode.value for mode in AutoresetMode]
    if wrong := [mode for mode in modes or () if mode not in known and not isinstance(mode, AutoresetMode)]:
        raise InputError(f"modes={wrong}: choose of {', '.join(known)}")
    asked_modes = [None] if modes is None else [AutoresetMode(mode) for mode in modes]
    settings = CheckSettings(num_envs, steps, seed, single, max_episode_steps, snapshots, pickling, wrappers, tolerance)
    report, first = Report(), None
    for mode, output in itertools.product(asked_modes, [None] if outputs is None else outputs):
        options: dict[str, Any] = {} if mode is None else {"autoreset_mode": mode}
        options |= {} if output is None else {"output": output}
        setting = ", ".join(([mode.name] if mode else []) + ([output] if output else []))
        findings = Findings(report, setting, strict)
        create = functools.partial(make, num_envs=num_envs, **options)
        case = Case(create, settings, findings, mode, output, create())
        try:
            _check(case, first)
        finally:
            case.close()
        if first is None and case.base:
            first = case
    if report.violations:
        raise ConformanceError(report)
    return report


def _check(case: Case, first: Case | None) -> None:
    declared(case)
    if case.findings.has("interface") or not first_run(case):
        return
    repeatable = seeds(case)
    rules: list[Callable[[], None]] = [functools.partial(ends, case, repeatable)]
    if repeatable:
        rules += [functools.partial(rule, case) for rule in _COMPARING]
        rules.append(functools.partial(_agreement, case, first))
    rules.append(functools.partial(closing, case))
    for rule in rules:
        try:
            rule()
        except CaseError as failure:
            case.findings.add(failure.code, str(failure))
            case.renew()


def _agreement(case: Case, first: Case | None) -> None:
    if first is None:
        return
    if first.env.metadata.get("autoreset_mode") is not first.mode:
        case.findings.add(
            "metadata", "making an environment in another mode changes the metadata of those that exist", strict=True
        )
    if case.mode is first.mode:
        text = first_difference(first.base, case.base)
    elif first.independent and case.independent and first.listed and case.listed:
        text = first_difference(first.listed, case.listed, case.settings.tolerance)
    else:
        case.findings.note("episodes are not compared with those of other modes, since rows are not independent")
        return
    if text:
        case.findings.add("agreement", f"episodes are not those of {first.findings.setting}", text)


def from_id(env_id: str, num_envs: int, *, vectorization_mode: str | None = None, **options: Any) -> AnyVectorEnv:
    """`gymnasium.make_vec`, with `autoreset_mode` given to whoever does the vectorisation."""
    own = vectorization_mode in (None, "vector_entry_point") and find_spec(env_id).vector_entry_point is not None
    if not own and "autoreset_mode" in options:
        options["vector_kwargs"] = {**options.get("vector_kwargs", {}), "autoreset_mode": options.pop("autoreset_mode")}
    return gym.make_vec(env_id, num_envs, vectorization_mode=vectorization_mode, **options)


def single_from_id(env_id: str, **options: Any) -> Callable[[], gym.Env[Any, Any]] | None:
    """Makes what every row of `from_id` should equal; None for an id that has no single environment."""
    if find_spec(env_id).entry_point is None:
        return None
    return functools.partial(gym.make, env_id, disable_env_checker=True, **options)
