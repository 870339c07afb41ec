"""A real world recorded, learned and acted in, as far as the minutes go: the same code at every size."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.gpu.sheet import NotRunError, Setting, Sheet
from benchmarks.gpu.worlds import TINY
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.agents.evaluation import evaluate as play
from lssvwm.agents.policies.baselines import make_policy
from lssvwm.agents.running.environment import Probe, probe
from lssvwm.agents.running.presets import PRESETS
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.recording.recorder import record as record_episodes
from lssvwm.worldmodel import EpisodeStore, Trainer, TrainingConfig, WorldModel, WorldModelConfig, load_checkpoint
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.checkpoint import CONFIG, WEIGHTS
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.evaluation.command import Options, evaluate
from lssvwm.worldmodel.training import HeadsConfig

Lengths = tuple[int, int]
POSE = ("agent_pos", "agent_dir")
UNSEEN = 500_000
"""Seeds from here on are of mazes that nothing is trained on."""
MOST_BYTES = 16 * 2**20
"""What the shipped checkpoint may weigh."""


def world(setting: Setting) -> EnvConfig:
    return EnvConfig("lssvwm/MemoryMaze-9x9-v0", extra_obs=True, max_episode_steps=24 if setting.rehearse else None)


def record(setting: Setting, sheet: Sheet) -> None:
    """Scripted episodes in processes, for training and, of other mazes, for judging."""
    config, rows = world(setting), 2 if setting.rehearse else 16
    try:
        actions = probe(config).actions
    except (InputError, MissingExtraError) as error:  # the package, or a library to render with
        raise NotRunError(str(error)) from error
    policy = make_policy("scripted", actions, config.id)
    taken = time.monotonic()
    for name, seed in (("unseen", UNSEEN), ("episodes", 0)):
        # After the first turn it is known how long one takes.
        turns = max(1, int(0.8 * setting.left / (time.monotonic() - taken))) if seed == 0 and setting.cuda else 1
        store = EpisodeStore(setting.shared / name, create=True)
        summary = record_episodes(
            config, store, policy, episodes=turns * rows, num_envs=rows, seed=seed, progress=False
        )
        sheet.note(f"{name}: steps of {rows} processes", summary.steps_per_second, "steps/s")
        sheet.note(f"{name}: frames", float(store.frames))


def train(setting: Setting, sheet: Sheet) -> None:
    """The preset `memory-maze`, which a CPU plays at once, on clips five times as long as a CPU trains on; judged by
    reasoning; handed back with a card and one episode to dream from.
    """
    learn(setting, sheet, "world_model", (), "memory-maze", batch=32, length=128)
    judge(setting, sheet, "world_model", (("reasoning", (400, 100), (12, 8)),))
    ship(setting, sheet)


def retrieval(setting: Setting, sheet: Sheet) -> None:
    """The paper's question: 400 frames seen, then the same path backwards, by a model that is told the pose."""
    learn(setting, sheet, "posed", POSE, "small", batch=16, length=64)
    judge(setting, sheet, "posed", (("retrieval", (401, 400), (13, 12)), ("reasoning", (400, 400), (12, 8))))


def learn(
    setting: Setting, sheet: Sheet, name: str, pose: tuple[str, ...], preset: str, *, batch: int, length: int
) -> None:
    """Train until about two thirds of the stage's time are over, heads included."""
    store = episodes(setting, "episodes", pose)
    config = model_config(setting, store, preset)
    with weights_from(0):
        model = WorldModel(config).to(setting.device)
    changes = {"batch": batch, "length": length, "precision": "bfloat16", "workers": 8}
    if setting.rehearse:
        changes = {"batch": 2, "length": 8, "precision": "float32", "workers": 0}
    training = TrainingConfig(**{**vars(PRESETS[preset].training), **changes, "save_seconds": 1e9})
    told = {"env": world(setting).to_dict(), "num_actions": config.num_actions, "episodes": "../episodes"}
    trainer = Trainer(model, store, training, setting.shared / name, world={**told, "pose": list(pose)})
    share = 0.35 * setting.left
    trainer.train(3 if setting.rehearse else 20, progress=False)
    begin, done = time.monotonic(), trainer.step
    losses = trainer.train(done + (2 if setting.rehearse else 50), progress=False)
    rate = (trainer.step - done) / (time.monotonic() - begin)
    if not setting.rehearse:
        losses = trainer.train(trainer.step + int(0.9 * rate * max(0.0, setting.left - share)), progress=False)
    heads = HeadsConfig(steps=4, calibration=2) if setting.rehearse else HeadsConfig(steps=400, calibration=100)
    losses |= trainer.fit_heads(store, heads)
    sheet.note(f"{name}: parameters", sum(p.numel() for p in model.parameters()) / 1e6, "M")
    sheet.note(f"{name}: frames recorded", float(store.frames))
    sheet.note(f"{name}: training steps", float(trainer.step))
    sheet.note(f"{name}: trained frames", rate * training.batch * training.length, "frames/s")
    sheet.note(f"{name}: diffusion loss", float(losses["diffusion"]))


def model_config(setting: Setting, store: EpisodeStore, preset: str) -> WorldModelConfig:
    height, width = store.image_shape
    if setting.rehearse:
        return replace(TINY, patch=32, height=height, width=width, num_actions=6, pose_size=store.pose_size)
    return PRESETS[preset].model.of_world(Probe((height, width), ActionSpec.discrete(6)), store.pose_size)


def judge(setting: Setting, sheet: Sheet, name: str, asked: Sequence[tuple[str, Lengths, Lengths]]) -> None:
    """Protocols on unseen mazes, each with context and horizon on a GPU, and those of a rehearsal."""
    for protocol, real, tiny in asked:
        context, horizon = tiny if setting.rehearse else real
        options = Options(
            (setting.shared / name,),
            setting.shared / "unseen",
            setting.shared / f"{name}-{protocol}",
            protocols=(protocol,),  # type: ignore[arg-type]
            context=context,
            horizon=horizon,
            clips=2 if setting.rehearse else 16,
            steps=2,
            shown=0,
            device=setting.device,
            progress=False,
        )
        for who, figures in evaluate(options)["protocols"][protocol].items():
            for figure in ("psnr", "ssim"):
                if figure in figures:
                    mean = figures[figure].get("mean")
                    sheet.note(f"{protocol} {context} + {horizon}: {figure} of {who}", float(mean))


def ship(setting: Setting, sheet: Sheet) -> None:
    """The checkpoint, where it is too large with weights of 16 bits; a card, and the episode its dreams begin in."""
    source, out = setting.shared / "world_model", setting.out / "world_model"
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(source / WEIGHTS)
    if (source / WEIGHTS).stat().st_size > MOST_BYTES:
        # Buffers of the tokenizer, running figures and time constants keep their bits.
        kept = ("tokenizer.", "standardise.", "log_A", "dt_bias")
        tensors = {k: v if any(part in k for part in kept) or v.ndim < 2 else v.bfloat16() for k, v in tensors.items()}
    save_file(tensors, out / WEIGHTS)
    shutil.copy(source / CONFIG, out / CONFIG)
    loaded = load_checkpoint(out, setting.device)
    sheet.true("the shipped checkpoint loads", loaded.step > 0)
    sheet.at_most("the shipped weights", (out / WEIGHTS).stat().st_size / 2**20, MOST_BYTES / 2**20, "MiB")
    one = episodes(setting, "unseen", ()).names[0]
    shutil.rmtree(setting.out / "episodes", ignore_errors=True)
    (setting.out / "episodes").mkdir()
    shutil.copy(setting.shared / "unseen" / one, setting.out / "episodes" / one)
    figures = "\n".join(f"- {f.what}: {f.value} {f.unit}" for f in sheet.findings)
    card = (
        "# A world model of Memory Maze 9x9\n\n"
        "Made by `python -m benchmarks.gpu`, stage `train`, in the minutes that were left: small, and far from trained "
        f"out. `lssvwm play` knows it by its folder.\n\n{figures}\n\nSettings of the model: config.json.\n"
    )
    (out / "README.md").write_text(card)


def agent(setting: Setting, sheet: Sheet) -> None:
    """The dreamer for the stage's time, then played for real."""
    if not (setting.shared / "world_model" / CONFIG).exists():
        raise NotRunError("the stage train left no world model")
    model, store = (
        load_checkpoint(setting.shared / "world_model", setting.device).model,
        episodes(setting, "episodes", ()),
    )
    tiny = {"rows": 4, "horizon": 3, "context": 3} if setting.rehearse else {"rows": 256}
    config = DreamerConfig(**tiny, save_seconds=1e9)  # type: ignore[arg-type]
    shutil.rmtree(setting.shared / "policy", ignore_errors=True)  # of an earlier call, in another world model
    dreamer = Dreamer(model, store, config, setting.shared / "policy")
    dreamer.train(1, progress=False)
    begin, portion = time.monotonic(), 1 if setting.rehearse else 5
    until, share = setting.left, 0.4
    while dreamer.step == 1 or (setting.left > share * until and not setting.rehearse):
        figures = dreamer.train(dreamer.step + portion, progress=False)
    seconds = time.monotonic() - begin
    sheet.note("batches of dreams", float(dreamer.step))
    sheet.note(
        "imagined frames, learning included", (dreamer.step - 1) * config.rows * config.horizon / seconds, "frames/s"
    )
    sheet.note("imagined return", figures["imagined_return"])
    rows = 2 if setting.rehearse else 16
    judged = play(
        "dreamer", world(setting), dreamer.policy(), episodes=rows, seed=UNSEEN, num_envs=rows, progress=False
    )
    sheet.note("real return", sum(judged.evaluation.returns) / rows)


def episodes(setting: Setting, name: str, pose: tuple[str, ...]) -> EpisodeStore:
    """What the stage `record` left."""
    folder: Path = setting.shared / name
    if not folder.exists():
        raise NotRunError("the stage record left no episodes")
    return EpisodeStore(folder, pose=pose)
