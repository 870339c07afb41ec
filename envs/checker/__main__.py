"""`python -m lssvwm.envs.checker ENV_ID`: check a registered environment; exit status 1 if it breaks the contract."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium as gym
import tyro
from gymnasium.vector import AutoresetMode

from lssvwm.envs.checker import ConformanceError, check_vector_env, from_id, single_from_id
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.common.errors import InputError


@dataclass(frozen=True)
class Options:
    """Check a vector environment against Gymnasium's contract."""

    env_id: Annotated[str, tyro.conf.Positional]
    """A Gymnasium id; `module:id` imports the module first."""
    num_envs: int = 3
    """Rows."""
    kwargs: str = "{}"
    """Arguments of the environment, as a JSON object."""
    vectorization_mode: Literal["sync", "async", "vector_entry_point"] | None = None
    """As of gymnasium.make_vec."""
    modes: tuple[Literal["NextStep", "SameStep", "Disabled"], ...] = ()
    """Autoreset modes; without, the one that the environment declares."""
    outputs: tuple[Literal["numpy", "torch"], ...] = ()
    """Passed on as `output`; without, it is not passed."""
    steps: int = 100
    """Of every run."""
    seed: int = 0
    """Of the environment and the actions."""
    single: bool = True
    """Compare rows with the single environment of the same id."""
    strict: bool = False
    """Ask also for what Gymnasium leaves open."""


def check(options: Options) -> int:
    """Print the report; 0 where the contract is kept, 1 where it is not."""
    try:
        kwargs: Any = json.loads(options.kwargs)
    except json.JSONDecodeError as error:
        raise InputError(f"--kwargs {options.kwargs!r} is no JSON ({error}): write '{{\"name\": value}}'") from error
    if not isinstance(kwargs, dict):
        raise InputError(f"--kwargs {options.kwargs!r} is no JSON object: write '{{\"name\": value}}'")
    make = functools.partial(from_id, options.env_id, vectorization_mode=options.vectorization_mode, **kwargs)
    try:
        report = check_vector_env(
            make,
            num_envs=options.num_envs,
            modes=[AutoresetMode(mode) for mode in options.modes] or None,
            outputs=options.outputs or None,
            steps=options.steps,
            seed=options.seed,
            single=single_from_id(options.env_id, **kwargs) if options.single else None,
            strict=options.strict,
        )
    except ConformanceError as error:
        report = error.report
    print(f"{options.env_id}: {report}")
    return 1 if report.violations else 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse the command line and check."""
    try:
        return check(tyro.cli(Options, args=args, prog=started_as("lssvwm.envs.checker")))
    except gym.error.Error as error:
        raise InputError(str(error)) from error


if __name__ == "__main__":
    run_main(main)
