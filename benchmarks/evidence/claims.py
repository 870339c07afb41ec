"""What is claimed, and with which runs each claim is shown or not: methods, controls and costs, as plain data."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lssvwm.worldmodel.common.errors import InputError

SEEDS = 5


@dataclass(frozen=True)
class Method:
    """One row of a claim's table: runs of train_agent.py that differ in their seed alone."""

    name: str
    """Also the folder of its runs: NAME-SEED."""
    title: str
    options: str = ""
    """Of train_agent.py, after those of the claim."""
    world: str = ""
    """Another method, in whose world model of the same seed this one learns instead of recording its own."""


@dataclass(frozen=True)
class Claim:
    """What is claimed, the runs that show it, and what they cost."""

    name: str
    says: str
    options: str
    """Of train_agent.py, for all methods."""
    methods: tuple[Method, ...]
    metric: Literal["success", "return"]
    better: tuple[tuple[str, str], ...]
    """(one, other): what one earns is to lie above what the other does, intervals apart."""
    minutes: int
    """CPU minutes of one seed."""
    measured: str
    """By which run `minutes` was measured; empty where it is reckoned from the speeds that docs/scale.md gives."""
    policies: tuple[str, ...] = ("random",)
    """What learns nothing, played beside."""
    honest: tuple[str, ...] = ()
    """Methods whose imagined return is to be above the real one by less than a quarter of that."""
    curves: bool = False
    """Whether all methods learn from real steps of their own, so that curves over them compare."""
    at_once: int = 64
    """Environments that are judged in at once, in one process."""
    minetest: bool = False
    quick: str = ""
    """What `--quick` tells besides, for all methods."""

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        known = {*names, *self.policies}
        asked = {*(name for pair in self.better for name in pair), *self.honest}
        worlds = {(m.name, m.world) for m in self.methods if m.world}
        if len(known) < len(names) + len(self.policies) or not asked <= known:
            raise InputError(f"claim {self.name}: names are unique, and {sorted(asked - known)} are none of its rows")
        if late := [name for name, world in worlds if world not in names[: names.index(name)]]:
            raise InputError(f"claim {self.name}: {late} learn in a world that is not learned before")

    def words(self, method: Method) -> list[str]:
        """The options of a method, without its seed and its folders."""
        return [*shlex.split(self.options), *shlex.split(method.options)]


_PPO = "--algo ppo --in real --ppo.rows 32 --ppo.lr 5e-4 --ppo.entropy 0.02 --env-steps 25000"
_SB3 = "--algo sb3-recurrent-ppo --in real --env-steps 25000"

_SMALL_PATCHES = "--model.patch 14"  # those of 28 pixels are whitened for seconds


def _minigrid(size: str, rounds: int, recorded: int, held_out: int, minutes: int, measured: str) -> Claim:
    return Claim(
        f"minigrid-{size.lower()}",
        f"Policies trained in dreams alone succeed in MiniGrid-Memory{size} from starts that were never recorded, and "
        "recurrent PPO and SB3's RecurrentPPO after equally many real steps do not.",
        f"--preset minigrid --env MiniGrid-Memory{size}-v0 --rounds {rounds} --layouts 0 {recorded} "
        f"--eval-layouts {recorded} {held_out}",
        (
            Method("dreams", "in dreams alone"),
            Method("ppo", "recurrent PPO (ours), real", _PPO),
            Method("sb3-recurrent-ppo", "RecurrentPPO (SB3), real", _SB3),
        ),
        "success",
        (("dreams", "ppo"), ("dreams", "sb3-recurrent-ppo"), ("dreams", "random")),
        minutes,
        measured,
        honest=("dreams",),
        curves=True,
        quick=_SMALL_PATCHES,
    )


_HONEST = "--explore 0.2 --extra-obs --heads.dreamt 16"
# An advantage is a few hundredths where the next reward is far: a weight of 0.3 would allow no other policy than the
# clone (docs/memory.md, "Memory Maze 5x5").
_HELD = "--clone --cloning.no-critic --dreamer.clone-kl 0.02 --dreamer.lr 3e-4"
_SHOWN = "--demonstrator oracle --demonstrations 24"


def _far(name: str, world: str, options: str, sizes: str, env_steps: int, minutes: int, minetest: bool) -> Claim:
    """A world in which cloning an oracle is where dreams begin."""
    # Of the Memory Maze's oracle, who knows more than the frames, a world model would learn that what is done tells
    # what is there: it dreamt 2.8 times the reward that a clone had earned, without the oracle's episodes 0.8 times:
    # docs/memory.md.
    player = "scripted" if minetest else "seeker"
    cloned = "--cloning.best 0.5" if minetest else "--demonstrator oracle --demonstrations 20"
    rows = 2 if minetest else 8  # each has an engine of its own
    return Claim(
        name,
        f"In {world} dreams on top of a clone earn more than the clone, and dreams alone more than chance.",
        f"{options} --collector {player}:0.5,random:0.5 {_HONEST} {sizes} --eval-episodes 10",
        (
            Method("dreams", "in dreams alone", "--rounds 2"),
            # In its second round the clone itself is recorded.
            Method("clone", "cloned", f"--algo clone --rounds 2 {cloned}"),
            Method("clone-dreams", "cloned, then dreams", f"{_HELD} {cloned} --cloning.steps 1000", world="clone"),
            Method(
                "ppo",
                "recurrent PPO (ours), real",
                f"--algo ppo --in real --rounds 2 --ppo.rows {rows} --ppo.minibatches 2 --env-steps {env_steps}",
            ),
        ),
        "return",
        (("clone-dreams", "clone"), ("dreams", "random"), ("dreams", "ppo")),
        minutes,
        "",
        policies=("random", "scripted") if minetest else ("random", "seeker", "oracle"),
        honest=("dreams", "clone-dreams"),
        at_once=2 if minetest else 8,
        minetest=minetest,
    )


_ABLATED = (
    "--clone --dreamer.clone-kl 0.3 --dreamer.clone-kl-half 100 --dreamer.lr 1e-3 --dreamer.entropy 0.03 "
    "--dreamer.reset-every 0"
)

CLAIMS: Mapping[str, Claim] = {
    claim.name: claim
    for claim in (
        _minigrid("S7", 3, 12, 4, 45, ""),
        _minigrid("S11", 5, 24, 8, 70, ""),
        _minigrid("S13Random", 5, 148, 48, 79, "seed 0"),
        _far(
            "memory-maze",
            "Memory Maze 9x9",
            "--preset memory-maze",
            "--collect-episodes 16 --world-steps 2000 --dreams 150",
            16_000,
            280,
            minetest=False,
        ),
        Claim(
            "memory-maze-5x5",
            "In a Memory Maze of 5x5 cells and 2 balls, whose walls stay, dreams on top of a clone earn more than the "
            "clone, and dreams alone more than chance and than recurrent PPO after equally many real steps.",
            """--preset memory-maze --env lssvwm/MemoryMaze-5x5-v0 --env-options '{"maze_seed": 7}' --every 2 """
            "--size 32 --extra-obs --explore 0.2 --num-envs 8 --no-processes --eval-episodes 10 --dreamer.horizon 4 "
            "--dreamer.context 32 --dreamer.discount 0.97 --dreamer.replay-value 1 --cloning.discount 0.97",
            (
                Method(
                    "dreams",
                    "in dreams alone",
                    "--collector seeker:0.6,random:0.4 --collect-episodes 200 --model.latent-channels 128 "
                    "--model.dim 256 --model.whitening 0.5 --heads.dreamt 16 --training.batch 16 --training.length 24 "
                    "--training.precision bfloat16 --training.decay 0.2 --world-steps 1500 "
                    "--dreams 300 --dreamer.entropy 3e-3",
                ),
                Method("clone", "cloned", f"--algo clone --cloning.no-critic {_SHOWN}", world="dreams"),
                Method("clone-dreams", "cloned, then dreams", f"{_HELD} {_SHOWN} --dreams 300", world="dreams"),
                Method(
                    "ppo",
                    "recurrent PPO (ours), real",
                    "--algo ppo --in real --ppo.rows 8 --ppo.minibatches 2 --env-steps 50000",
                ),
            ),
            "return",
            (("clone-dreams", "clone"), ("dreams", "random"), ("dreams", "ppo")),
            120,
            "",
            policies=("random", "seeker", "oracle"),
            honest=("dreams", "clone-dreams"),
            at_once=8,
        ),
        _far(
            "treechop",
            "Treechop in Minetest",
            "--preset treechop",
            "--collect-episodes 20 --world-steps 2000 --dreams 100",
            20_000,
            400,
            minetest=True,
        ),
        Claim(
            "crafter",
            "In Crafter, a world that nobody here made, policies trained in dreams earn more than those of "
            "Stable-Baselines3 after equally many real steps.",
            "--preset default --env lssvwm/Crafter-v0 --rounds 4 --num-envs 8 --no-processes",
            (
                Method(
                    "dreams",
                    "in dreams alone",
                    "--model.patch 16 --training.carry 0.95 --collect-episodes 1000 --collect-frames 10000 "
                    "--world-steps 750 --heads.dreamt 16 --dreams 75 --dreamer.discount 0.99 --dreamer.entropy 1e-3",
                ),
                Method("sb3-ppo", "PPO (SB3), real", "--algo sb3-ppo --in real --env-steps 10000"),
                Method(
                    "sb3-recurrent-ppo",
                    "RecurrentPPO (SB3), real",
                    "--algo sb3-recurrent-ppo --in real --env-steps 10000",
                ),
            ),
            "return",
            (("dreams", "sb3-ppo"), ("dreams", "sb3-recurrent-ppo"), ("dreams", "random")),
            130,
            "",
            honest=("dreams",),
            curves=True,
        ),
        Claim(
            "ablation",
            "Contexts that stream, heads fitted to dreamt frames, the divergence from the clone and the critic's loss "
            "on real rewards each pay: taken away, the policy earns less, in MiniGrid-MemoryS7 from starts that were "
            "never recorded.",
            "--preset minigrid --rounds 2 --layouts 0 12 --eval-layouts 12 4 --collector oracle:0.5,random:0.5 "
            f"{_HONEST} {_ABLATED}",
            (
                Method("all", "all four"),
                Method("no-stream", "without streaming contexts", "--dreamer.contexts window"),
                Method("no-dreamt", "without heads on dreamt frames", "--heads.dreamt 0"),
                Method("no-kl", "without the divergence from the clone", "--dreamer.clone-kl 0"),
                Method("no-replay", "without the replay value", "--dreamer.replay-value 0"),
                Method("clone", "cloned alone", "--algo clone --no-clone --dreamer.clone-kl 0 --rounds 1", world="all"),
            ),
            "success",
            tuple(("all", name) for name in ("no-stream", "no-dreamt", "no-kl", "no-replay", "clone")),
            150,
            "",
            policies=("random", "oracle"),
            honest=("all",),
            quick=_SMALL_PATCHES,
        ),
    )
}


def claims(names: tuple[str, ...] = ()) -> list[Claim]:
    """Those of these names, or all. Raises InputError for a name that is none."""
    if unknown := [name for name in names if name not in CLAIMS]:
        raise InputError(f"there is no claim '{unknown[0]}': choose of {', '.join(CLAIMS)}")
    return [CLAIMS[name] for name in names or CLAIMS]
