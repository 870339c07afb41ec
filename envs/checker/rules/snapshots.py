"""Rules of environments that can be saved, restored, pickled and copied."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from lssvwm.envs.checker.case import Case, first_difference
from lssvwm.envs.checker.data import difference
from lssvwm.envs.checker.driver import CaseError, Driver, guarded


def snapshot(case: Case) -> None:
    """Three replays from one state: the state survives being played from, and holds the random numbers too."""
    env, found = case.env, case.findings
    offered = all(callable(getattr(env, name, None)) for name in ("get_state", "set_state"))
    if case.settings.snapshots is False or (case.settings.snapshots is None and not offered):
        found.note("snapshots are not checked: the environment has no get_state and set_state, or they were left out")
        return
    if not offered:
        found.add("snapshot", "get_state() and set_state(state) are missing")
        return
    begun = case.drive()
    begun.play(case.settings.seed, case.settings.steps // 2)
    state = guarded("get_state()", env.get_state)  # type: ignore[attr-defined]
    first, starts = _go_on(case, begun)
    for _ in range(2):
        guarded("set_state(state)", env.set_state, state)  # type: ignore[attr-defined]
        again, restarts = _go_on(case, begun)
        if text := first_difference(first, again):
            found.add("snapshot", "the run after set_state(get_state()) is another one", text)
            return
        if text := difference(starts, restarts):
            found.add(
                "snapshot", f"reset() after set_state(state) begins elsewhere ({text}): keep random numbers in it"
            )
            return


def _go_on(case: Case, begun: Driver) -> tuple[Any, Any]:
    driver = begun.fork()
    for _ in range(case.settings.steps // 2):
        driver.step()
    rows = [list(row) for row in driver.rows]
    driver.reset()
    return rows, tuple(driver.last)


def pickles(case: Case) -> None:
    """Copies by pickle and deepcopy play like the original from reset on; from where it stands, if it has states."""
    kind, found = type(case.env.unwrapped), case.findings
    hooks = ("__getstate__", "__reduce__", "__reduce_ex__")
    offered = any(getattr(kind, name) is not getattr(object, name) for name in hooks)
    if case.settings.pickling is False or (case.settings.pickling is None and not offered):
        found.note(
            "pickling and copying are not checked: the environment defines no __getstate__, or it was not asked for"
        )
        return
    stateful = callable(getattr(case.env, "get_state", None))
    for name, duplicate in (("pickle", _through_pickle), ("copy.deepcopy", copy.deepcopy)):
        begun = case.drive()
        begun.play(case.settings.seed, case.settings.steps // 2)
        try:
            twin = guarded(name, duplicate, case.env)
            if stateful:
                mine, yours = _go_on(case, begun), _go_on(case, begun.fork(twin))
                if text := first_difference(mine[0], yours[0]) or difference(mine[1], yours[1]):
                    found.add("pickle", f"a copy by {name} does not go on like the original", text)
            if text := first_difference(case.base, case.play(env=twin)):
                found.add("pickle", f"a copy by {name} plays another run from the same seed", text)
            twin.close()
        except CaseError as failure:
            found.add("pickle", f"a copy cannot be made or used, {failure}")
            case.renew()


def _through_pickle(env: Any) -> Any:
    return pickle.loads(pickle.dumps(env))
