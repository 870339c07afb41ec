"""To the hub: a world with its card, contexts, policy and report, and episodes as a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.hub.client import Kind, Repo, explained, files_of, hub
from lssvwm.worldmodel.hub.fetch import EPISODES, FILES
from lssvwm.worldmodel.worlds.card import CARD, PAGE, page, read_card
from lssvwm.worldmodel.worlds.pack import Packing, name_of, pack_world

_AT_ONCE = 500
"""Files in one commit of a data set."""

_DATA_SET = """---
license: {licence}
task_categories:
- reinforcement-learning
tags:
- world-model
- gymnasium
---

# {name}

{episodes:,} episodes, {frames:,} frames of {height} x {width} pixels, one file each: `image` (T + 1, h, w, 3)
uint8, `action` (T + 1,) or (T + 1, A), of which entry t led to frame t, `reward`, `terminated` and `truncated`
(T + 1,).

```
python -m lssvwm.worldmodel.hub pull-episodes {name} EPISODES
python train_wm.py --episodes EPISODES --out RUN
```
"""


def push(run: Path, name: str, told: Packing | None = None, *, private: bool = False) -> str:
    """Pack a run, or take a folder that is packed already, and write it to the hub in one commit; returns its address.

    The report page of the run goes along as `report/`. Raises InputError where the hub refuses.
    """
    repo = Repo.parse(name)
    with tempfile.TemporaryDirectory() as temporary:
        packed = (run / CARD).is_file()
        folder = run if packed else pack_world(run, name_of(repo.name), Path(temporary), told)
        card = read_card(folder)
        files = {file: folder / file for file in FILES if (folder / file).is_file()}
        files[PAGE] = Path(temporary) / PAGE
        files[PAGE].write_text(page(card, f"hf://{repo.name}"))
        report = run / "report"
        if (report / "index.html").is_file():
            files |= {f"report/{path.name}": path for path in sorted(report.iterdir()) if path.is_file()}
        return commit(repo, "model", files, f"{card['name']}, {card['steps']} steps", private=private)


def push_episodes(folder: Path, name: str, *, licence: str = "mit", private: bool = False) -> str:
    """Write a folder of episodes to the hub as a data set; returns its address. What is there already is not sent."""
    repo, store = Repo.parse(name), EpisodeStore(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is a packed file: name the folder of episodes that it was made from")
    with tempfile.TemporaryDirectory() as temporary:
        height, width = store.image_shape
        about = _DATA_SET.format(
            licence=licence, name=repo.name, episodes=len(store), frames=store.frames, height=height, width=width
        )
        (Path(temporary) / PAGE).write_text(about)
        with explained(repo):
            hub().HfApi().create_repo(repo.name, repo_type="dataset", private=private, exist_ok=True)
            there = set(files_of(repo, "dataset"))
        wanted = {f"{EPISODES}/{episode}": store.root / episode for episode in store.names}
        new = [(at, path) for at, path in wanted.items() if at not in there]
        for begin in range(0, len(new), _AT_ONCE):
            part = dict(new[begin : begin + _AT_ONCE])
            commit(repo, "dataset", part, f"{len(part)} episodes", private=private)
        return commit(repo, "dataset", {PAGE: Path(temporary) / PAGE}, f"{len(store)} episodes", private=private)


def commit(repo: Repo, kind: Kind, files: Mapping[str, Path], message: str, *, private: bool) -> str:
    """Write files into a repository, which is made where it is not there, all at once; returns its address."""
    api, add = hub().HfApi(), hub().CommitOperationAdd
    with explained(repo):
        address = api.create_repo(repo.name, repo_type=kind, private=private, exist_ok=True)
        operations = [add(path_in_repo=at, path_or_fileobj=path) for at, path in files.items()]
        api.create_commit(
            repo.name, operations, commit_message=message, repo_type=kind, revision=repo.revision or "main"
        )
    return str(address)
