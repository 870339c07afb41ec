"""Worlds that come with the package, and runs that are packed as such worlds."""

from __future__ import annotations

import fnmatch
import functools
import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreams import ID
from lssvwm.agents.policies.world_model import WorldModelPolicy, load_agent
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.packed import CONTEXTS, PackConfig
from lssvwm.worldmodel.worlds import names, resolve
from lssvwm.worldmodel.worlds.__main__ import MOST, main
from lssvwm.worldmodel.worlds.card import CARD, read_card
from lssvwm.worldmodel.worlds.pack import Packing, pack_world
from lssvwm.worldmodel.worlds.policy import POLICY, pack_policy, read_policy
from lssvwm.worldmodel.worlds.scores import ScoreConfig
from packing import finished_run
from runs import ROOT
from worlds import small_store

SCORES = ScoreConfig(context=3, horizon=2, clips=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    small_store(folder / "held-out")
    told = Packing(held_out=folder / "held-out", about="A corridor.", machine="one core", scores=SCORES)
    return pack_world(run, "corridor", folder, told)


def test_shipped_worlds_fit_the_package_and_are_in_it() -> None:
    assert "minigrid-memory-s7" in names()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {"lssvwm.worldmodel.worlds", "lssvwm.worldmodel.hub"} <= set(settings["packages"])
    home, sizes = ROOT / "worldmodel" / "worlds", []
    for name in names():
        files = [path for path in (home / name).rglob("*") if path.is_file()]
        for path in files:
            at = str(path.relative_to(home))
            assert any(fnmatch.fnmatch(at, glob) for glob in settings["package-data"]["lssvwm.worldmodel.worlds"]), at
        sizes.append(sum(path.stat().st_size for path in files))
        assert sizes[-1] <= MOST, name
    assert sum(sizes) <= 40_000_000


@pytest.mark.parametrize("name", names())
def test_a_shipped_world_dreams_at_once(name: str) -> None:
    card = read_card(resolve(name))
    assert card["name"] == name
    empty = {key for key, value in card.items() if value is None} - {"policy"}
    assert not empty, "every world that is shipped says all of it"
    env = gym.make(ID, checkpoint=name, context_length="all")
    frame, _ = env.reset(seed=0)
    after = env.step(0)[0]
    assert frame.shape == after.shape == env.observation_space.shape
    env.close()


def test_the_policy_of_a_shipped_world_acts() -> None:
    folder = resolve("minigrid-memory-s7")
    model = load_checkpoint(folder).model
    policy = WorldModelPolicy(model, load_agent(folder / POLICY, model))
    policy.reset(np.array([0]), np.array([1]))
    store = EpisodeStore(folder / CONTEXTS)
    actions = policy.act(store.read(store.names[0]).image[:1].copy(), {})
    assert actions.shape == (1,)
    assert 0 <= actions[0] < model.config.num_actions


def test_the_list_says_what_the_cards_say(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    text = capsys.readouterr().out
    main(["list"])
    assert capsys.readouterr().out == text
    for name in names():
        card = read_card(resolve(name))
        for part in (name, f"{card['steps']:,} steps", card["machine"], card["licence"], "PSNR", "end AUROC"):
            assert part in text
        assert card["command"].splitlines()[0] in text


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    for use in (load_checkpoint, resolve, lambda name: gym.make(ID, checkpoint=name)):
        with pytest.raises(InputError, match=r"minigrid-memory-s8 is neither .* one of .*minigrid-memory-s7"):
            use("minigrid-memory-s8")  # type: ignore[operator]
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        load_checkpoint(tmp_path / "none")


def test_a_packed_run_dreams_the_same_elsewhere(packed: Path, run: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in packed.iterdir()) == [
        "README.md",
        "card.json",
        "config.json",
        "contexts.npz",
        "model.safetensors",
        "policy.safetensors",
    ]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in packed.iterdir())
    assert str(run) not in "".join((packed / name).read_text() for name in ("README.md", "card.json", "config.json"))
    moved = shutil.copytree(packed, tmp_path / "elsewhere")
    theirs = load_checkpoint(moved)
    assert "episodes" not in theirs.world
    rolled = []
    for checkpoint in (str(moved), str(run / "world_model")):
        env = gym.make_vec(ID, 2, checkpoint=checkpoint, context_length=3, contexts=str(moved / CONTEXTS))
        frames, _ = env.reset(seed=1)
        rolled.append(np.stack([frames, *(env.step(np.array([1, 2]))[0] for _ in range(3))]))
    np.testing.assert_array_equal(*rolled)
    ours = torch.load(run / "policy" / "policy.pt", weights_only=True)["agent"]
    agent = load_agent(moved / POLICY, theirs.model)
    assert all(tensor.equal(ours[name]) for name, tensor in agent.state_dict().items())


def test_its_card_says_how_it_came_about(packed: Path, run: Path) -> None:
    card, store = read_card(packed), EpisodeStore(run / "episodes")
    assert (card["data"]["episodes"], card["data"]["frames"]) == (len(store), store.frames)
    assert card["command"] == (
        "python train_agent.py --preset smoke --out RUN --seed 3\n"
        "python train_agent.py --preset smoke --out RUN --seed 3 --resume"
    )
    assert (card["seconds"], card["machine"], card["licence"]) == (120.0, "one core", "mit")
    assert card["policy"] == {"return": 0.75, "success_rate": 0.75, "episodes": 20}, "the last round's"


def test_its_scores_are_those_of_the_evaluation(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    from lssvwm.worldmodel.evaluation.command import evaluate
    from lssvwm.worldmodel.evaluation.options import Options

    scores = read_card(packed)["scores"]
    held_out = packed.parent / "held-out"
    options = Options((packed,), held_out, tmp_path, studies=(), shown=0, progress=False, device="cpu")
    found = evaluate(replace(options, context=3, horizon=2, clips=4, steps=scores["steps"]))
    figures = found["protocols"]["reasoning"][packed.name]
    for metric in ("psnr", "ssim"):
        ours = scores["continued"]["model"][metric]
        assert ours["mean"] == pytest.approx(figures[metric]["mean"])
        assert list(ours["by_distance"]) == ["1", "2"]
    assert scores["episodes"] == len(EpisodeStore(held_out))
    assert 0 <= scores["heads"]["termination_accuracy"] <= 1
    page = (packed / "README.md").read_text()
    assert f"| PSNR (dB) | model | {scores['continued']['model']['psnr']['mean']:.2f}" in page


def test_ends_are_judged_on_whole_endings(packed: Path) -> None:
    store = EpisodeStore(packed.parent / "held-out")
    heads = read_card(packed)["scores"]["heads"]
    ended = sum(bool(store.read(name).terminated[-1]) for name in store.names)
    assert heads["terminal_share"] == pytest.approx(ended / store.frames), "every end is among the frames"


def test_a_run_that_is_not_finished_is_packed_as_it_stands(run: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(run, tmp_path / "cut")
    for name in ("policy", "stages", "report"):
        shutil.rmtree(cut / name)
    (cut / "clocks.json").unlink()
    main(["pack", str(cut), "half-way", "--out", str(tmp_path / "out"), "--contexts.episodes", "2", "--seconds", "7"])
    found = tmp_path / "out" / "half-way"
    card = read_card(found)
    assert (card["seconds"], card["scores"], card["policy"]) == (7.0, None, None)
    assert len(EpisodeStore(found / CONTEXTS)) == 2
    assert "It was not judged" in (found / "README.md").read_text()
    again = pack_world(found, "again", tmp_path / "out", Packing())
    assert (again / CONTEXTS).read_bytes() == (found / CONTEXTS).read_bytes(), "a world is packed from a world"


def test_a_policy_is_packed_with_the_world_that_it_was_given(run: Path, packed: Path, tmp_path: Path) -> None:
    given = shutil.copytree(run, tmp_path / "given")
    shutil.rmtree(given / "world_model")
    shutil.rmtree(given / "episodes")
    (given / "settings.json").write_text(json.dumps({"world_model": str(packed)}))
    found = pack_world(given, "given", tmp_path / "out")
    for name in ("model.safetensors", CONTEXTS, POLICY):
        assert (found / name).read_bytes() == (packed / name).read_bytes(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Corridor 7"}, r"name 'Corridor 7': use up to 96 of a-z"),
        ({"name": "../x"}, r"name '\.\./x'"),
        ({"run": "nowhere"}, r"there is no run .*nowhere: name the --out"),
        ({"held_out": "episodes"}, r"holds what it was trained on: record others, with another --seed"),
        ({"held_out": "none"}, r"none does not exist"),
    ],
)
def test_what_cannot_be_packed_leaves_nothing(run: Path, tmp_path: Path, change: dict[str, str], message: str) -> None:
    held_out = run / change["held_out"] if "held_out" in change else None
    told = Packing(held_out=held_out, contexts=PackConfig(episodes=1))
    with pytest.raises(InputError, match=message):
        pack_world(run / change.get("run", "."), change.get("name", "corridor"), tmp_path, told)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(packed: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"corridor is there already: delete it, or choose another name"):
        pack_world(run, "corridor", packed.parent)


def test_a_run_without_episodes_or_contexts_cannot_be_packed(run: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(run, tmp_path / "cut")
    shutil.rmtree(cut / "episodes")
    with pytest.raises(InputError, match=r"has no contexts\.npz, and its episodes are not there: copy the whole run"):
        pack_world(cut, "corridor", tmp_path)


@pytest.mark.parametrize("change", [{"format": 2}, {"scores": ...}])
def test_cards_of_other_versions_are_named(packed: Path, tmp_path: Path, change: dict[str, object]) -> None:
    card = {**read_card(packed), **change}
    kept = {key: value for key, value in card.items() if value is not ...}
    (tmp_path / CARD).write_text(json.dumps(kept))
    with pytest.raises(InputError, match=r"card\.json(: it lacks scores;| is not of format 1:) pack the world again"):
        main(["card", str(tmp_path)])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", "many", "steps='many': give a whole number"),
        ("about", ["a"], "about=['a']: give text"),
        ("data", 3, "data=3: give an object"),
        ("data.episodes", 1.5, "data.episodes=1.5: give int | None"),
        ("env.id", None, "env.id=None: give text"),
        ("policy.return", "high", "policy.return='high': give float | None"),
        ("scores.horizon", ..., "it lacks scores.horizon"),
        ("scores.heads.reward_auroc", {}, "scores.heads.reward_auroc={}: give float | None"),
        ("scores.continued.model", ..., "it lacks scores.continued.model"),
        ("scores.continued.last frame held.psnr.mean", True, "scores.continued.last frame held.psnr.mean=True: give"),
        ("scores.continued.other", 1, "scores.continued.other=1: give an object"),
        ("scores.continued.model.ssim.by_distance.1", "x", "scores.continued.model.ssim.by_distance.1='x': give"),
    ],
)
def test_a_malformed_card_is_named_with_its_key(tmp_path: Path, key: str, value: object, said: str) -> None:
    card = json.loads((resolve("minigrid-memory-s7") / CARD).read_text())
    *above, last = key.split(".")
    at = functools.reduce(lambda inner, name: inner[name], above, card)
    at.pop(last, None)
    if value is not ...:
        at[last] = value
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / CARD}: {said}")):
        main(["card", str(tmp_path)])


def test_a_card_without_a_page_is_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = read_card(resolve("minigrid-memory-s7"))
    del card["scores"]["continued"]["last frame held"]["ssim"]["by_distance"]["1"]
    (tmp_path / CARD).write_text(json.dumps({**card, "data": {**card["data"], "frames": None}}))
    main(["card", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "# minigrid-memory-s7" in shown
    assert "episodes not counted" in shown


def test_the_whole_card(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["card", str(packed)])
    assert capsys.readouterr().out == (packed / "README.md").read_text()


def test_policies_of_other_files_are_refused(packed: Path, tmp_path: Path) -> None:
    shutil.copyfile(packed / "model.safetensors", tmp_path / POLICY)
    with pytest.raises(InputError, match=r"policy\.safetensors cannot be read"):
        load_agent(tmp_path / POLICY, load_checkpoint(packed).model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 2**20}, r"policy\.safetensors does not fit this config: actor\."),
        ({"layers": 10**9}, r"policy\.safetensors has networks of 1000000000 layers: 1000 are the most"),
        ({"hidden": "8"}, "networks.hidden='8': give a whole number"),
    ],
)
def test_policies_that_would_fill_the_memory_are_refused(
    packed: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """As one from the hub may be."""
    with safe_open(packed / POLICY, "pt") as file:
        networks = {**json.loads(file.metadata()["networks"]), **changes}
    save_file(load_file(packed / POLICY), tmp_path / POLICY, {"networks": json.dumps(networks)})
    with pytest.raises(InputError, match=message):
        load_agent(tmp_path / POLICY, load_checkpoint(packed).model)


def test_the_policy_of_a_run_that_only_clones_is_packed(packed: Path, tmp_path: Path) -> None:
    state = read_policy(packed / POLICY)
    (tmp_path / "policy").mkdir()
    assert not pack_policy(tmp_path / "policy", tmp_path / POLICY)
    torch.save(state, tmp_path / "policy" / "cloning.pt")
    assert pack_policy(tmp_path / "policy", tmp_path / POLICY)
    torch.testing.assert_close(read_policy(tmp_path / POLICY)["agent"], state["agent"], rtol=0, atol=0)
