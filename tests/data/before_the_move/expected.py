"""What runs/ had to tell to the code of before: dreams, episodes, and what the interrupted run came to in the end."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from envs import DreamVectorEnv
from worldmodel.episodes import EpisodeStore

world, dreams = Path("runs/world"), {}
for contexts in ("episodes", "world_model/contexts.npz"):
    env = DreamVectorEnv(2, checkpoint=world / "world_model", contexts=world / contexts, context_length=3)
    frames = [env.reset(seed=0)[0]]
    steps = [env.step(np.array([t % 3, 2])) for t in range(8)]
    frames += [step[0] for step in steps]
    dreams[f"{contexts}/frames"], dreams[f"{contexts}/rewards"] = np.stack(frames), np.stack([s[1] for s in steps])
np.savez_compressed(Path(sys.argv[1]) / "dream.npz", **dreams)


def read(folder):
    """By file, the SHA-256 of each array."""
    store = EpisodeStore(folder)
    parts = {name: store.read(name).arrays().items() for name in store.names}
    return {name: {key: sha256(v.tobytes()).hexdigest() for key, v in arrays} for name, arrays in parts.items()}


ended = {path.stem: json.loads(path.read_text()) for path in sorted(Path("runs/ended/stages").iterdir())}
episodes = {folder: read(f"runs/{folder}") for folder in ("world/episodes", "older")}
told = json.dumps({"episodes": episodes, "stages": ended}, indent=2)
(Path(sys.argv[1]) / "expected.json").write_text(told + "\n")
