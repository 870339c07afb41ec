"""The best round of a run, kept beside the last one as a folder that can be judged like a run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lssvwm.agents.evaluation.files import EVALUATIONS
from lssvwm.worldmodel.checkpoint import CONFIG, WEIGHTS, read_json
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.episodes.packed import CONTEXTS

BEST, NOTE = "best", "best.json"


def best_round(returns: Sequence[Sequence[float]]) -> int:
    """Which round earned most, by the mean of its real returns; the first of equal ones."""
    return int(np.argmax([np.mean(each) for each in returns]))


def keep(out: Path, settings: Mapping[str, Any], round_: int, told: Mapping[str, Any]) -> None:
    """Make RUN/best what stands in RUN now: policy, curve, settings, and its world model unless that was given.

    Files are linked where the disk can, since whoever writes them puts new ones in their place. `told` is noted in
    RUN/best/best.json beside the number of the round. What was there before goes when all of it is there.
    """
    new, old = out / f".{BEST}", out / BEST
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    unfinished = shutil.ignore_patterns(".*")  # of a writer that died
    shutil.copytree(out / "policy", new / "policy", copy_function=_linked, ignore=unfinished)
    if (out / EVALUATIONS).exists():
        _linked(str(out / EVALUATIONS), str(new / EVALUATIONS))
    write_json(new / "settings.json", settings)
    if (out / "world_model").is_dir():
        (new / "world_model").mkdir()
        carried = (out / "world_model" / CONTEXTS).is_file()  # runs of earlier versions have none
        for name in (WEIGHTS, CONTEXTS) if carried else (WEIGHTS,):
            _linked(str(out / "world_model" / name), str(new / "world_model" / name))
        meta = read_json(out / "world_model" / CONFIG, "a world model checkpoint")
        if (episodes := meta["world"].get("episodes")) and not Path(episodes).is_absolute():
            meta["world"]["episodes"] = str(Path("..") / episodes)  # from one folder further in
        write_json(new / "world_model" / CONFIG, json.loads(json.dumps(meta)))
    write_json(new / NOTE, {"round": round_, **told})
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
    return target
