"""The rules of the house that can be read off the source: who imports whom, what is lazy, how long a file is."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("worldmodel", "envs", "agents")
NAME = "lssvwm"
SCRIPTS = {"train_wm", "train_agent"}
FORBIDDEN = {
    "worldmodel": {"envs", "agents", "gymnasium"} | SCRIPTS,
    "envs": {"agents"} | SCRIPTS,
    "agents": SCRIPTS,
}
HEAVY = (
    "h5py",
    "minari",
    "pyarrow",
    "mujoco",
    "dm_control",
    "memory_maze",
    "minigrid",
    "stable_baselines3",
    "sb3_contrib",
    "torchrl",
    "tensordict",
    "tianshou",
    "ray",
    "minerl",
    "mamba_ssm",
    "torchmetrics",
    "diffusers",
    "av",
    "matplotlib",
    "starlette",
    "uvicorn",
    "websockets",
)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Top-level names of everything that `source` imports, inside functions too; of ours the package below."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{NAME}.").split(".")[0] for name in names}


def python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    files = sources(package)
    assert files
    against = {str(f.relative_to(ROOT)): bad for f in files if (bad := imported(f.read_text()) & FORBIDDEN[package])}
    assert not against


def test_the_rule_sees_imports_inside_functions() -> None:
    source = "import os.path\ndef f():\n    from lssvwm.envs.factory import make\n    import lssvwm.agents.run as d\n"
    assert imported(source) == {"os", "envs", "agents"}


def modules() -> dict[str, Path]:
    """Every module of the packages, by name. The packages' own names are left out: they only hand on what is within."""
    found = {}
    for file in (file for package in PACKAGES for file in sources(package)):
        parts = file.relative_to(ROOT).with_suffix("").parts
        inner = parts[:-1] if parts[-1] == "__init__" else parts
        if len(inner) > 1:
            found[".".join([NAME, *inner])] = file
    return found


def needed(file: Path, known: Collection[str]) -> set[str]:
    """Those of the `known` modules that `file` imports when it is imported or type-checked, not within functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= set(known) else {node.module}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)
    return found & set(known)


def test_imports_run_in_no_circle() -> None:
    known = modules()
    graph = {name: needed(file, known) - {name} for name, file in known.items()}
    assert graph["lssvwm.agents.running.algorithms"] > {"lssvwm.agents.running.settings", "lssvwm.worldmodel.episodes"}
    tuple(TopologicalSorter(graph).static_order())  # a CycleError names the circle


def test_a_circle_is_seen(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import two\n")
    (tmp_path / "two.py").write_text("class Two:\n    from one import name\n")
    graph = {name: needed(tmp_path / f"{name}.py", {"one", "two"}) for name in ("one", "two")}
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph).static_order())


def test_core_dependencies_are_enough_to_import() -> None:
    blocked = python(
        f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\nfrom lssvwm import worldmodel, envs, agents"
    )
    assert blocked.returncode == 0, blocked.stderr
    loaded = python(
        f"import sys\nfrom lssvwm import worldmodel, envs, agents\nprint([n for n in {HEAVY} if n in sys.modules])"
    )
    assert loaded.stdout.strip() == "[]", loaded.stdout + loaded.stderr


@pytest.mark.parametrize(
    ("missing", "env_id", "extra"),
    [
        ("minigrid", "MiniGrid-MemoryS7-v0", "minigrid"),
        ("memory_maze", "lssvwm/MemoryMaze-9x9-v0", "memory-maze"),
    ],
)
def test_missing_extra_says_what_to_install(missing: str, env_id: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules['{missing}'] = None\nfrom lssvwm import envs\nenvs.make(envs.EnvConfig('{env_id}'))"
    )
    result = python(code)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "MissingExtraError" in last
    assert f"the package '{missing}" in last
    assert f"not installed: pip install 'lssvwm[{extra}]'" in last


@pytest.mark.parametrize("old", PACKAGES)
def test_the_names_of_before_are_the_same_modules(old: str) -> None:
    """In a checkout, with one line of warning; classes are not there twice."""
    inner = {"worldmodel": "episodes.store", "envs": "dream.vector", "agents": "running.settings"}[old]
    code = f"import {old}.{inner} as one, lssvwm.{old}.{inner} as two, {old}\nassert one is two\nprint({old}.__name__)"
    result = python(code)
    assert result.stdout == f"lssvwm.{old}\n", result.stderr
    assert result.stderr.count(f"FutureWarning: import lssvwm.{old} instead of {old}") == 1


def test_ids_of_before_are_made_and_modules_of_before_started() -> None:
    made = python("import gymnasium; print(gymnasium.make('envs:lssvwm/MiniGrid-Carpet-v0').spec.entry_point)")
    assert made.stdout == "lssvwm.envs.worlds.minigrid_carpet:Carpet\n", made.stderr
    started = subprocess.run([sys.executable, "-m", "worldmodel.worlds"], cwd=ROOT, capture_output=True, text=True)
    assert "minigrid-memory-s7" in started.stdout, started.stderr


def test_the_package_costs_no_torch() -> None:
    loaded = python("import sys, lssvwm\nprint('torch' in sys.modules, 'gymnasium' in sys.modules)")
    assert loaded.stdout == "False True\n", loaded.stderr


def test_the_scripts_cost_processes_of_environments_no_torch() -> None:
    """Each of them reads the script of its parent."""
    loaded = python("import sys, train_agent, train_wm\nprint('torch' in sys.modules)")
    assert loaded.stdout == "False\n", loaded.stderr


def test_files_can_be_read_in_one_sitting() -> None:
    limits = {file: 350 for package in PACKAGES for file in sources(package)}
    limits |= {file: 140 for name in SCRIPTS if (file := ROOT / f"{name}.py").exists()}
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in limits}
    assert not {file: n for (file, n), limit in zip(lengths.items(), limits.values(), strict=True) if n > limit}
