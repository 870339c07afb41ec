"""What can learn to act, by name: in dreams of a world model, or in the real environment as the model-free anchor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

from gymnasium.vector import AutoresetMode, VectorEnv

from lssvwm.agents.algorithm import Algorithm
from lssvwm.agents.dreamer.cloning import Cloner, CloningConfig
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.agents.model_free.ppo import PPO, PPOConfig
from lssvwm.agents.model_free.recurrent import RecurrentPolicy, load_net
from lssvwm.agents.model_free.sb3_config import Name, SB3Config
from lssvwm.agents.planning.planner import Planner
from lssvwm.agents.policies.world_model import WorldModelPolicy, load_agent
from lssvwm.agents.running.run import DEMONSTRATIONS
from lssvwm.agents.running.settings import ALGORITHMS, Algo, LoopSettings, Place
from lssvwm.envs.dream import ContextLength, DreamOptions, DreamVectorEnv
from lssvwm.envs.factory import make_vec
from lssvwm.envs.policy import Policy
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.told import ToldPart

IN_ENVIRONMENTS: tuple[Algo, ...] = ("ppo", *get_args(Name))
"""Those that take any environment; the others need the world model itself."""

LEARNERS: Mapping[str, str] = {"dreamer": Dreamer.FILE, "clone": Cloner.FILE}
"""Those that learn on the world model's features, and the file that holds what they have learned."""


def check_algorithm(settings: LoopSettings) -> None:
    """Raise an InputError for an algorithm that cannot learn where it is to."""
    s = settings
    if s.place not in get_args(Place):
        raise InputError(f"--in {s.place}: choose dream or real")
    if s.place == "real" and s.algo not in IN_ENVIRONMENTS:
        raise InputError(f"--algo {s.algo} needs a world model to learn in: leave out --in real, or choose --algo ppo")
    if s.place == "dream" and s.algo in IN_ENVIRONMENTS:
        DreamOptions(context_length=_context_length(s), start=s.dream_start, max_episode_steps=s.dream_steps)
    if s.place == "real" and s.world_model is not None:
        raise InputError("--in real learns without a world model: leave out --world-model")
    if s.clone and s.algo != "dreamer":
        raise InputError(f"--clone starts the policy of --algo dreamer, {s.algo} has another one: leave it out")
    if s.dreamer.clone_kl and not s.clone:
        raise InputError(f"--dreamer.clone-kl {s.dreamer.clone_kl} holds a policy to what --clone starts: add --clone")
    if s.demonstrator is not None and not (s.clone or s.algo == "clone"):
        raise InputError(f"--demonstrator {s.demonstrator} plays what is cloned: add --clone, or --algo clone")
    if s.clone and s.dreamer.reset_every:
        raise InputError("--dreamer.reset-every would forget what --clone starts from: leave one out")
    if s.algo.startswith("sb3") and s.tell:
        raise InputError(f"--algo {s.algo} reads frames alone, not --tell {s.tell[0]}: choose --algo dreamer or ppo")
    if s.algo.startswith("sb3"):
        require("stable_baselines3", "sb3", f"--algo {s.algo}")
    if s.algo in ("sb3-maskable-ppo", "sb3-recurrent-ppo"):
        require("sb3_contrib", "sb3", f"--algo {s.algo}")


@contextmanager
def algorithm(
    settings: LoopSettings,
    out: Path,
    *,
    checkpoint: Checkpoint | None,
    contexts: EpisodeStore | None,
) -> Iterator[Algorithm]:
    """The algorithm that `settings` name, with its state in `out`; what it learns in is closed afterwards.

    It learns in dreams of `checkpoint` that begin in `contexts`; without a checkpoint in the real environment. The
    policy that it gives can be used when it is gone.
    """
    s = settings
    if checkpoint is not None and s.algo not in IN_ENVIRONMENTS:
        assert contexts is not None
        yield _in_the_model(s, out, checkpoint, contexts)
        return
    envs = _environments(s, checkpoint, contexts)
    try:
        device = "cpu" if checkpoint is None else str(checkpoint.model.device)
        yield _in_environments(s, out, envs, device, () if checkpoint is None else checkpoint.model.config.told)
    finally:
        envs.close()


def learned(
    settings: LoopSettings,
    out: Path,
    *,
    checkpoint: Checkpoint | None,
    contexts: EpisodeStore | None,
    greedy: bool = False,
) -> Policy:
    """The policy whose state is in `out`, to play the real environment: nothing that only learning needs is made.

    `greedy` takes the most likely action instead of drawing one; planning knows none, and raises InputError.
    """
    if checkpoint is not None and settings.algo in LEARNERS:
        agent = load_agent(out / LEARNERS[settings.algo], checkpoint.model)
        return WorldModelPolicy(checkpoint.model, agent, greedy=greedy)
    if settings.algo == "ppo":
        net = load_net(out / PPO.FILE, "cpu" if checkpoint is None else checkpoint.model.device)
        return RecurrentPolicy(net, greedy=greedy)
    with algorithm(settings, out, checkpoint=checkpoint, contexts=contexts) as found:
        return found.policy(greedy=greedy)


def _in_the_model(s: LoopSettings, out: Path, checkpoint: Checkpoint, contexts: EpisodeStore) -> Algorithm:
    model = checkpoint.model
    if s.algo in ALGORITHMS:
        added: Algorithm = ALGORITHMS[s.algo](s, out, checkpoint, contexts)
        return added
    if s.algo == "plan":
        return Planner(model, s.planning)
    if s.algo == "clone":
        return cloner_of(s, out, model, contexts)
    return Dreamer(model, contexts, DreamerConfig(**{**asdict(s.dreamer), "seed": s.seed}), out)


def cloner_of(s: LoopSettings, out: Path, model: WorldModel, contexts: EpisodeStore) -> Cloner:
    """What clones the run's demonstrations, or `contexts` where it has none, as `model` sees them."""
    derived = {"seed": s.seed, "hidden": s.dreamer.hidden, "layers": s.dreamer.layers}
    if s.demonstrator is not None:
        contexts = EpisodeStore(out.parent / DEMONSTRATIONS, told=model.config.told)
    return Cloner(model, contexts, CloningConfig(**{**asdict(s.cloning), **derived}), out)


def until(settings: LoopSettings, round_: int, frames: int) -> int:
    """How far the algorithm has trained when round `round_` has ended, as it counts; `frames` are recorded by then."""
    s = settings
    if s.algo in ALGORITHMS:
        return (round_ + 1) * s.dreams
    if s.algo == "dreamer":
        if s.dream_ratio is not None:
            return int(frames * s.dream_ratio / (s.dreamer.rows * s.dreamer.horizon))
        return (round_ + 1) * s.dreams
    if s.algo == "clone":
        return (round_ + 1) * s.cloning.steps
    if s.algo == "ppo":
        return -(-(round_ + 1) * s.env_steps // (s.ppo.rows * s.ppo.steps))
    return (round_ + 1) * s.env_steps


def _in_environments(
    s: LoopSettings, out: Path, envs: VectorEnv[Any, Any, Any], device: str, told: tuple[ToldPart, ...]
) -> Algorithm:
    if s.algo == "ppo":
        return PPO(envs, PPOConfig(**{**asdict(s.ppo), "seed": s.seed}), out, device=device, told=told)
    if told:
        raise InputError(
            f"--algo {s.algo} reads frames alone and would not know '{told[0].key}', which the world model is told: "
            "choose --algo dreamer, clone, plan or ppo"
        )
    from lssvwm.agents.model_free.sb3 import StableBaselines

    name = cast("Name", s.algo)
    return StableBaselines(name, envs, SB3Config(**{**asdict(s.sb3), "seed": s.seed}), out, device=device)


def _environments(
    s: LoopSettings, checkpoint: Checkpoint | None, contexts: EpisodeStore | None
) -> VectorEnv[Any, Any, Any]:
    rows, mode = (s.ppo.rows, AutoresetMode.DISABLED) if s.algo == "ppo" else (s.sb3.rows, AutoresetMode.SAME_STEP)
    if checkpoint is None:
        return make_vec(s.env_config, rows, processes=s.processes, autoreset_mode=mode)
    assert contexts is not None
    return DreamVectorEnv(
        rows,
        checkpoint=checkpoint,
        contexts=contexts.root,
        context_length=_context_length(s),
        start=s.dream_start,
        max_episode_steps=s.dream_steps,
        steps=s.dreamer.steps,
        autoreset_mode=mode,
        context_info=s.algo == "ppo",
        device=str(checkpoint.model.device),
    )


def _context_length(s: LoopSettings) -> ContextLength:
    # Up to so many: episodes that turn out short must not end a run that has learned its world.
    return "all" if s.dream_context is None else (s.dream_context, s.dream_context)
