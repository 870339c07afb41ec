"""Arrays of published `.npz` files, without pickle and with errors that name the file and the key."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError

Arrays = dict[str, NDArray[Any]]


def read_npz(path: Path, required: Iterable[str], wanted: Callable[[str], bool] = lambda key: True) -> Arrays:
    """The `required` arrays of `path`, and all others whose key is `wanted`.

    Raises InputError for a file that is missing, cut off, damaged or no .npz, for a missing key, and for arrays of
    Python objects, which only pickle could read.
    """
    arrays: Arrays = {}
    required, key = set(required), ""
    try:
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            if missing := sorted(required - set(held)):
                raise InputError(f"{path} has no {', '.join(missing)}, only {', '.join(sorted(held))}: another format?")
            for key in held:
                if key in required or wanted(key):
                    with archive.open(f"{key}.npy") as member:
                        arrays[key] = np.asarray(np.lib.format.read_array(member, allow_pickle=False))
    except (zipfile.BadZipFile, zlib.error, EOFError, FileNotFoundError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy it again from where it came") from error
    except ValueError as error:  # InputError is one
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: '{key}' cannot be read ({error})") from error
    return arrays


def whole_numbers(array: NDArray[Any], frames: int, source: str) -> NDArray[np.int64]:
    """Actions of every frame as (frames,) int64 from 0. Raises InputError, naming `source`, for anything else."""
    if array.dtype.kind not in "iu" or array.shape != (frames,):
        raise InputError(
            f"{source} has actions {array.dtype} {array.shape}, but {frames} frames: want one integer each"
        )
    if len(array) and int(array.min()) < 0:
        raise InputError(f"{source} has the action {array.min()}: want 0 or more")
    return array.astype(np.int64)


def taken(actions: NDArray[Any], source: str) -> NDArray[Any]:
    """Actions (T, ...) as numbers (T,), where each is one whole number, or vectors (T, A). Raises InputError."""
    flat = actions.reshape(len(actions), -1)
    if actions.dtype.kind in "iu" and flat.shape[1] == 1:
        if len(flat) and flat.min() < 0:
            raise InputError(f"{source} has the action {flat.min()}: numbered actions are 0 or more")
        return flat[:, 0]
    return flat.astype(np.float32)


def per_step(array: NDArray[Any], steps: int, key: str, source: str) -> NDArray[Any]:
    """`array` again. Raises InputError unless it has `steps` entries."""
    if array.shape[:1] != (steps,):
        raise InputError(f"{source}: '{key}' has shape {array.shape}, but {steps} entries are wanted")
    return array
