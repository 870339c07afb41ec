"""Evaluations on disk: the layout of the Stable-Baselines3 zoo, a CSV line per episode, and TensorBoard.

episodes.csv        seed, return, length, success, seconds, ended: a line per episode, in the order of the seeds
evaluations.npz     timesteps (n,), results (n, e) and ep_lengths (n, e), as SB3's EvalCallback writes them, and
                    successes (n, e); seconds (n,) of training; imagined (n,), the mean return in dreams: NaN if unknown
0.monitor.csv       a JSON line, then r, l, t: as SB3's Monitor writes it, in the order in which episodes ended
"""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lssvwm.agents.evaluation.real import Evaluation
from lssvwm.worldmodel.common.atomic import replace, write_text
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.loggers import Scalars

EPISODES, EVALUATIONS, MONITOR = "episodes.csv", "evaluations.npz", "0.monitor.csv"
COLUMNS = ("seed", "return", "length", "success", "seconds", "ended")


@dataclass(frozen=True)
class Evaluations:
    """What the evaluations of one run were, in the order of its real steps: n of them, of e episodes each."""

    steps: NDArray[np.int64]
    """Real environment steps that had been learned from, (n,), strictly rising."""
    returns: NDArray[np.float64]
    """(n, e)."""
    lengths: NDArray[np.int64]
    """(n, e), in steps."""
    successes: NDArray[np.bool_]
    """(n, e)."""
    seconds: NDArray[np.float64]
    """Wall-clock seconds of training until then, (n,), without the evaluations; NaN where unknown."""
    imagined: NDArray[np.float64]
    """Mean return of the same policy in its own dreams, (n,); NaN where it has none."""

    @classmethod
    def of(cls, evaluation: Evaluation, *, steps: int, seconds: float, imagined: float) -> Evaluations:
        """A single one, n = 1."""
        return cls(
            steps=np.array([steps], np.int64),
            returns=np.array([evaluation.returns], np.float64),
            lengths=np.array([evaluation.lengths], np.int64),
            successes=np.array([evaluation.successes], np.bool_),
            seconds=np.array([seconds], np.float64),
            imagined=np.array([imagined], np.float64),
        )

    @classmethod
    def joined(cls, parts: Sequence[Evaluations], source: Path) -> Evaluations:
        """All of them, one after the other; an `InputError` names `source` where numbers of episodes differ."""
        counts = sorted({part.returns.shape[1] for part in parts})
        if len(counts) > 1:
            raise InputError(
                f"{source} holds evaluations of {counts} episodes: keep their number, or choose another folder"
            )
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _KEYS.values()))

    def select(self, kept: NDArray[np.bool_]) -> Evaluations:
        """Those where `kept` (n,) is True."""
        return Evaluations(*(getattr(self, name)[kept] for name in _KEYS.values()))


def write_episodes(path: Path, evaluation: Evaluation) -> None:
    """Write `episodes.csv`. Numbers are written so that they read back the same."""
    seconds = evaluation.seconds or (math.nan,) * len(evaluation.seeds)
    ended = evaluation.ended or (math.nan,) * len(evaluation.seeds)
    each = (evaluation.seeds, evaluation.returns, evaluation.lengths, evaluation.successes, seconds, ended)

    _write_csv(path, COLUMNS, ((*row[:3], int(row[3]), *row[4:]) for row in zip(*each, strict=True)))


def read_episodes(path: Path, name: str) -> Evaluation:
    """Inverse of `write_episodes`; a file that is not such a one is an `InputError`."""
    try:
        with path.open(newline="") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            rows = list(lines)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: name the folder of an evaluation") from error
    if tuple(header) != COLUMNS or not rows:
        raise InputError(f"{path} holds no episodes ({', '.join(COLUMNS)}): evaluate again")
    try:
        columns = list(zip(*rows, strict=True))
        integers = [tuple(int(text) for text in columns[at]) for at in (0, 2, 3)]
        numbers = [tuple(float(text) for text in columns[at]) for at in (1, 4, 5)]
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} cannot be read ({error}): evaluate again") from error
    (seeds, lengths, successes), (returns, seconds, ended) = integers, numbers
    return Evaluation(name, seeds, returns, lengths, tuple(map(bool, successes)), seconds, ended)


def write_monitor(path: Path, evaluation: Evaluation, env_id: str, started: float) -> None:
    """Write a `*.monitor.csv`; `started` is the time of day at which play began, in seconds since 1970."""
    ended = evaluation.ended or (0.0,) * len(evaluation.seeds)
    rows = sorted(zip(ended, evaluation.returns, evaluation.lengths, strict=True), key=lambda row: row[0])

    told = f"#{json.dumps({'t_start': started, 'env_id': env_id})}\n"
    _write_csv(path, ("r", "l", "t"), ((round(total, 6), length, round(end, 6)) for end, total, length in rows), told)


def _write_csv(path: Path, titles: Sequence[str], rows: Iterable[Sequence[object]], told: str = "") -> None:
    text = io.StringIO(told, newline="")
    text.seek(0, io.SEEK_END)
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(titles)
    lines.writerows(rows)
    write_text(path, text.getvalue())


def append_evaluation(
    path: Path, evaluation: Evaluation, *, steps: int, seconds: float = math.nan, imagined: float = math.nan
) -> None:
    """Add an evaluation to the `evaluations.npz` of a run, which is made when missing.

    One with the same or more real steps is replaced: a run that was killed does its last stage again. Another number of
    episodes than before is an `InputError`.
    """
    parts = [Evaluations.of(evaluation, steps=steps, seconds=seconds, imagined=imagined)]
    if path.exists():
        before = read_evaluations(path)
        parts.insert(0, before.select(before.steps < steps))
    whole = Evaluations.joined(parts, path)
    arrays = {key: getattr(whole, name) for key, name in _KEYS.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # an open file, or numpy appends .npz to the name
            np.savez(file, **arrays)

    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, write)


def read_evaluations(path: Path) -> Evaluations:
    """An `evaluations.npz`, SB3's own included: what it does not say is NaN, and no episode a success.

    A file that cannot be read, or has other shapes, is an `InputError`.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: evaluate first") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): delete it and evaluate again") from error
    if missing := [key for key in ("timesteps", "results", "ep_lengths") if key not in found]:
        raise InputError(f"{path} has no {', '.join(missing)}: it is no file of evaluations")
    n = len(found["timesteps"])
    if found["results"].ndim != 2 or found["results"].shape != found["ep_lengths"].shape or len(found["results"]) != n:
        raise InputError(f"{path} has results {found['results'].shape} for {n} time steps: want one row for each")
    unknown = np.full(n, np.nan)
    return Evaluations(
        steps=found["timesteps"].astype(np.int64),
        returns=found["results"].astype(np.float64),
        lengths=found["ep_lengths"].astype(np.int64),
        successes=found.get("successes", np.zeros_like(found["results"])).astype(np.bool_),
        seconds=found.get("seconds", unknown).astype(np.float64),
        imagined=found.get("imagined", unknown).astype(np.float64),
    )


_KEYS = {
    "timesteps": "steps",
    "results": "returns",
    "ep_lengths": "lengths",
    "successes": "successes",
    "seconds": "seconds",
    "imagined": "imagined",
}


def log_evaluation(writer: Scalars, evaluation: Evaluation, steps: int, *, imagined: float | None = None) -> None:
    """Log an evaluation under the tags of Stable-Baselines3, at `steps` real environment steps.

    `eval/imagined_reward` and `eval/imagined_minus_real` beside `eval/mean_reward` are ours.
    """
    writer.add_scalar("eval/mean_reward", evaluation.interval.mean, steps)
    writer.add_scalar("eval/mean_ep_length", float(np.mean(evaluation.lengths)), steps)
    writer.add_scalar("eval/success_rate", evaluation.success_rate, steps)
    if imagined is not None:
        writer.add_scalar("eval/imagined_reward", imagined, steps)
        writer.add_scalar("eval/imagined_minus_real", imagined - evaluation.interval.mean, steps)
