"""The hub's own client, and what goes wrong with it as one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from lssvwm.worldmodel.common.errors import InputError, one_line, require

Kind = Literal["model", "dataset"]
PICKLES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".t7"})
"""Endings of files that can run code when they are loaded."""

_PURPOSE = "Worlds and episodes on the hub"
_NAME = re.compile(r"(?:hf:/{1,2})?(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True)
class Repo:
    """A repository of the hub at a revision; None is the newest."""

    name: str
    revision: str | None = None

    @staticmethod
    def parse(text: str) -> Repo:
        """[hf://]OWNER/NAME[@REVISION]. Raises InputError for anything else."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise InputError(f"{text!r} is no name on the hub: give hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
        return Repo(found["repo"], found["revision"])


def hub() -> Any:
    """The package `huggingface_hub`."""
    return require("huggingface_hub", "hub", _PURPOSE)


def failures() -> Any:
    """The package's errors."""
    return require("huggingface_hub.errors", "hub", _PURPOSE)


@contextmanager
def explained(repo: Repo) -> Iterator[None]:
    """Whatever the hub refuses inside is an `InputError` of one line."""
    errors = failures()
    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(f"'{repo.name}' is no name on the hub: give OWNER/NAME ({one_line(error)})") from error
    except errors.GatedRepoError as error:
        raise InputError(f"{repo.name} is gated: accept its terms on the hub, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"the hub has no {repo.name}, or it is private: check the name, or `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{repo.name} has no revision {repo.revision}: name a branch, tag or commit of it") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise InputError(
            f"the hub is not reached, and {repo.name} was not fetched before: {one_line(error)}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(f"the hub does not allow this on {repo.name} ({status}): `hf auth login`") from error
        raise InputError(f"the hub refuses {repo.name} ({status}): {one_line(error)}") from error
    except errors.HTTPError as error:
        raise InputError(f"the hub is not reached for {repo.name}: {one_line(error)}") from error
    except InputError:
        raise
    except ValueError as error:  # metadata that it does not know
        raise InputError(f"the hub refuses what is written to {repo.name}: {one_line(error)}") from error


def files_of(repo: Repo, kind: Kind) -> list[str]:
    """The files of a repository. Raises InputError where one of them is a pickle."""
    info = hub().HfApi().repo_info(repo.name, revision=repo.revision, repo_type=kind)
    files = [sibling.rfilename for sibling in info.siblings or ()]
    unsafe = [file for file in files if PurePosixPath(file).suffix.lower() in PICKLES]
    if unsafe:
        raise InputError(
            f"{repo.name} holds pickles ({', '.join(unsafe[:3])}), which can run code when they are loaded: use a "
            "repository of safetensors alone"
        )
    return files
