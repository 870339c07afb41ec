"""What the command can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.evaluation.probing.probes import ProbeConfig
from lssvwm.worldmodel.evaluation.protocols.trials import Corruption, Protocol
from lssvwm.worldmodel.evaluation.studies.memory_use import MemoryUse
from lssvwm.worldmodel.evaluation.studies.palindrome import Palindrome
from lssvwm.worldmodel.evaluation.studies.recovery import Recovery
from lssvwm.worldmodel.evaluation.studies.revisits import Revisits

StudyName = Literal["memory", "revisits", "palindrome", "actions", "recovery", "rewards"]


@dataclass(frozen=True)
class Options:
    """Judge world models on recorded episodes: how well they continue them, and what they remember.

    Name several checkpoints to see a model and its baselines side by side, on the same clips.
    """

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """World models: folders made by train_wm.py or train_agent.py, names of `python -m lssvwm.worldmodel.worlds`, or
    hf://OWNER/NAME. The first names the table's order."""
    episodes: Path
    """Folder of recorded episodes, better ones that no model was trained on."""
    out: Path
    """Folder for results.json, drift-*.png, grid-*.mp4 and strip-*.png."""
    protocols: tuple[Protocol, ...] = ("reasoning",)
    """reasoning: the recorded actions; retrieval: the path replayed backwards (models with a pose); one-step: every
    frame after the true ones; cold-start: no context; dropped, noised, jumped: reasoning after a corrupted context."""
    context: int = 48
    """Frames that the models are shown."""
    horizon: int = 48
    """Frames that they continue."""
    clips: int = 64
    """Clips to judge, at most; they are held in memory."""
    steps: int = 4
    """Denoising steps per frame."""
    rows: int = 16
    """Clips computed at once: less takes less memory."""
    seed: int = 0
    """Which clips are drawn, with which noise, and what corruptions take."""
    pose: tuple[str, ...] = ()
    """Extras of the episodes that make up the agent's pose, as in training; by default what the checkpoint names."""
    corruption: Corruption = field(default_factory=Corruption)
    """What is wrong with corrupted contexts."""
    lpips: Path | None = None
    """Weights of torchvision's AlexNet or VGG16 (.pth or .safetensors): adds LPIPS."""
    fvd: Path | None = None
    """I3D as TorchScript (i3d_torchscript.pt): adds FVD."""
    studies: tuple[StudyName, ...] = ("memory",)
    """memory: the next frame from all history and from the last frames; revisits: the same where a view returns;
    palindrome: actions out and back; actions: right against wrong ones; recovery: frames dropped, noised, jumped;
    rewards: dreamt beside recorded."""
    memory: MemoryUse = field(default_factory=MemoryUse)
    """Use of memory."""
    revisits: Revisits = field(default_factory=Revisits)
    """Views that return."""
    palindrome: Palindrome = field(default_factory=Palindrome)
    """Walks out and back."""
    recovery: Recovery = field(default_factory=Recovery)
    """Frames that go wrong."""
    probe: tuple[str, ...] = ()
    """Extras of the episodes to look for in memory, such as maze_layout and agent_pos."""
    probe_reads: int = 4
    """Times that memory is read for probes, over the second half of the context."""
    probe_whole: bool = False
    """Read over the whole context, which begins with the episode: what is known after how many frames. Scores are
    those of the second half all the same, as in the offline benchmark of Memory Maze (context 1000 there)."""
    probe_given: tuple[str, ...] = ()
    """Extras that probes are told beside the memory; agent_pos and agent_dir in that benchmark."""
    probing: ProbeConfig = field(default_factory=ProbeConfig)
    """How probes are trained."""
    shown: int = 3
    """Clips in the videos; 0 writes none."""
    device: str = "auto"
    """Where to compute: cpu, cuda, or auto for CUDA where there is one."""
    progress: bool = True
    """Show progress bars."""

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "clips", "steps", "rows", "probe_reads"):
            least = 0 if name == "context" else 1
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least {least}")
