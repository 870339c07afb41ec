"""Two recorded episodes as .npz, in the folder that is named, by the code of a54218d."""

import sys

from agents.policies import RandomPolicy
from envs import EnvConfig
from envs.recording import record
from worldmodel.episodes import EpisodeStore

ENV = EnvConfig("MiniGrid-MemoryS7-v0", size=16, actions=(0, 1, 2), max_episode_steps=20)
store = EpisodeStore(sys.argv[1], create=True)
record(ENV, store, RandomPolicy(3), episodes=2, num_envs=1, seed=0, processes=False, progress=False)
