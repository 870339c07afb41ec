"""From the hub: worlds to dream in, and episodes to learn from."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from lssvwm.worldmodel.checkpoint import CONFIG, WEIGHTS, read_json
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.files import NPZ, SUFFIX
from lssvwm.worldmodel.episodes.packed import CONTEXTS
from lssvwm.worldmodel.hub.client import Repo, explained, failures, files_of, hub

NEEDED = (CONFIG, WEIGHTS)
FILES = (*NEEDED, CONTEXTS, "policy.safetensors", "card.json", "README.md")
"""All that is fetched of a world: no code, and nothing that can run any."""
EPISODES = "episodes"

_MOST = 2_000_000_000
_EPISODE = re.compile(rf"{EPISODES}/[\w-][\w.-]*({re.escape(SUFFIX)}|{re.escape(NPZ)})")


def fetch(text: str) -> Path:
    """The folder of the world hf://OWNER/NAME[@REVISION] in the cache of the hub's client, fetched where it is new.

    Without network, what was fetched before is taken. Raises InputError for what is not there, is no world, or holds
    pickles.
    """
    repo = Repo.parse(text)
    errors = failures()
    with explained(repo):
        try:
            files: list[str] | None = files_of(repo, "model")
        except errors.OfflineModeIsEnabled:
            files = None
        except errors.HTTPError as error:
            if isinstance(error, errors.HfHubHTTPError):
                raise
            files = None
        if files is not None and (missing := [name for name in NEEDED if name not in files]):
            raise InputError(f"{repo.name} is no world of this package, it lacks {', '.join(missing)}: name another")
        where = hub().snapshot_download(
            repo.name, revision=repo.revision, allow_patterns=list(FILES), local_files_only=files is None
        )
    folder = Path(where)
    if (folder / CONTEXTS).is_file():
        check_size(folder / CONTEXTS, repo)
    check_carried(folder, repo)
    return folder


def check_size(path: Path, repo: Repo) -> None:
    """Raise an InputError where a few compressed bytes would fill the memory."""
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
    except zipfile.BadZipFile as error:
        raise InputError(f"{path.name} of {repo.name} is damaged ({error}): ask its owner for a new one") from error
    if size > _MOST:
        raise InputError(f"{path.name} of {repo.name} would take {size:,} bytes: more than {_MOST:,} are not read")


def check_carried(folder: Path, repo: Repo) -> None:
    """Raise an InputError where a world names episodes, which on this machine would be whatever has that path."""
    world = read_json(folder / CONFIG, "a world of the hub").get("world")
    if isinstance(world, Mapping) and world.get("episodes") is not None:
        raise InputError(
            f"{CONFIG} of {repo.name} names the episodes {world['episodes']!r:.80}, which do not come with it: its "
            "owner pushes the run with `lssvwm push`, which packs what it needs"
        )


def pull(text: str, to: Path) -> Path:
    """Copy a world of the hub into the new folder `to`, which is then a checkpoint like any other."""
    if to.exists():
        raise InputError(f"{to} is there already: delete it, or name another folder")
    found = fetch(text)
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    try:
        for name in FILES:
            if (found / name).is_file():
                shutil.copyfile(found / name, partial / name)
        partial.chmod(0o755)
        partial.rename(to)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return to


def pull_episodes(text: str, to: Path) -> int:
    """Copy the episodes of a data set of the hub into the folder `to`, those that it lacks, and return their number."""
    repo = Repo.parse(text)
    with explained(repo):
        files = [file for file in files_of(repo, "dataset") if _EPISODE.fullmatch(file)]
        if not files:
            raise InputError(f"{repo.name} is no data set of episodes: it has no {EPISODES}/*{SUFFIX}; name another")
        where = Path(
            hub().snapshot_download(repo.name, repo_type="dataset", revision=repo.revision, allow_patterns=files)
        )
    to.mkdir(parents=True, exist_ok=True)
    new = [file for file in files if not (to / Path(file).name).exists()]
    for file in new:
        source = where / file
        replace(to / source.name, lambda path, source=source: shutil.copyfile(source, path))  # type: ignore[misc]
    return len(new)
