"""Recorded play that others published, as episodes: `python -m lssvwm.envs.recorded FORMAT FROM --to STORE`.

One module per format, all behind the Protocol `Recording`; `docs/recorded.md` says what each reads and how its steps
come onto the project's time-line.
"""

from lssvwm.envs.recorded.convert import Broken, Summary, convert
from lssvwm.envs.recorded.formats.registry import FORMATS, recording
from lssvwm.envs.recorded.interface import ReadOptions, Recording, Source

__all__ = ["FORMATS", "Broken", "ReadOptions", "Recording", "Source", "Summary", "convert", "recording"]
