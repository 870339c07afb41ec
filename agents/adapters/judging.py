"""A policy of Stable-Baselines3 against the random one, on the same environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorEnv

from lssvwm.agents.adapters import for_stable_baselines
from lssvwm.worldmodel.reporting.statistics import Interval, separated, within

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.type_aliases import PolicyPredictor


@dataclass(frozen=True)
class Verdict:
    """Mean returns with their 95 % intervals, over episodes."""

    policy: Interval
    random: Interval

    @property
    def beats_random(self) -> bool:
        """Whether the policy is better, and the intervals do not overlap."""
        return self.policy.mean > self.random.mean and separated(self.policy, self.random)

    def __str__(self) -> str:
        told = (
            f"{name} {part.mean:.3f} [{part.low:.3f}, {part.high:.3f}]"
            for name, part in {"policy": self.policy, "random": self.random}.items()
        )
        return f"mean return of {self.policy.count} episodes: {', '.join(told)}"


def against_random(
    model: PolicyPredictor, envs: VectorEnv[Any, Any, Any], *, episodes: int, seed: int, deterministic: bool = False
) -> Verdict:
    """Play `episodes` episodes with `model`, then with random actions, both in `envs` from `seed`.

    `envs` in `AutoresetMode.SAME_STEP`; each row plays its share of the episodes, so that short ones do not count
    more often. Policies that draw their actions are judged as they were trained unless `deterministic`.
    """
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecMonitor

    adapted = VecMonitor(for_stable_baselines(envs))
    intervals = []
    for player in (model, _Random(envs, seed)):
        adapted.seed(seed)
        returns, _ = evaluate_policy(
            player, adapted, episodes, deterministic=deterministic, return_episode_rewards=True
        )
        intervals.append(within([returns]))
    return Verdict(*intervals)


class _Random:
    """Every action equally likely, as a `PolicyPredictor` of Stable-Baselines3."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
        self._space = envs.action_space
        self._space.seed(seed)

    def predict(self, observation: Any, state: Any = None, **options: Any) -> tuple[NDArray[np.int64], Any]:
        del observation, options
        return self._space.sample(), state
