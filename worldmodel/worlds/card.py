"""The card of a world: what it is, how it came about and how good it is, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lssvwm.worldmodel.checkpoint import read_json
from lssvwm.worldmodel.common.errors import InputError, check_value
from lssvwm.worldmodel.reporting.tables import number

CARD, PAGE = "card.json", "README.md"
FORMAT = 1


@dataclass(frozen=True)
class Maybe:
    """An object of `keys`, or nothing."""

    keys: Mapping[str, Any]


_NUMBER = float | None
_CURVE = {**dict.fromkeys(("mean", "low", "high"), _NUMBER), "by_distance": {"*": _NUMBER}}
_JUDGED = {"psnr": _CURVE, "ssim": _CURVE}
_HEADS = (
    *("reward_rmse", "reward_rmse_of_mean", "reward_auroc"),
    *("termination_accuracy", "termination_accuracy_of_constant", "termination_auroc"),
)
KEYS: Mapping[str, Any] = {
    **dict.fromkeys(("name", "about", "licence", "machine", "command", "version"), str),
    **dict.fromkeys(("steps", "parameters"), int),
    "seconds": _NUMBER,
    "env": Maybe({"id": str}),
    "data": {"episodes": int | None, "frames": int | None, "licence": str},
    "policy": Maybe({"return": _NUMBER, "success_rate": _NUMBER, "episodes": int | None}),
    "scores": Maybe(
        {
            **dict.fromkeys(("episodes", "frames", "context", "horizon", "clips", "steps"), int),
            "continued": {"model": _JUDGED, "last frame held": _JUDGED, "*": _JUDGED},
            "heads": dict.fromkeys(_HEADS, _NUMBER),
        }
    ),
}
"""What a card holds, besides its format: types by key, `*` for any other key."""


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a packed world.

    Raises InputError where it has none, one of another version, or one that holds something else, naming the key.
    """
    path = folder / CARD
    card = read_json(path, "a packed world (python -m lssvwm.worldmodel.worlds pack)")
    if card.get("format") != FORMAT:
        raise InputError(f"{path} is not of format {FORMAT}: pack the world again")
    try:
        _check("", card, KEYS)
    except InputError as error:
        raise InputError(f"{path}: {error}; pack the world again") from error
    return card


def _check(key: str, value: Any, wanted: Any) -> None:
    if isinstance(wanted, Maybe):
        if value is None:
            return
        wanted = wanted.keys
    if not isinstance(wanted, Mapping):
        check_value(key, value, wanted)
        return
    if not isinstance(value, dict):
        raise InputError(f"{key}={value!r:.80}: give an object")
    before = f"{key}." if key else ""
    if missing := [f"{before}{name}" for name in wanted if name != "*" and name not in value]:
        raise InputError(f"it lacks {', '.join(missing)}")
    for name in value:
        if name in wanted or "*" in wanted:
            _check(f"{before}{name}", value[name], wanted.get(name, wanted.get("*")))


def summary(card: Mapping[str, Any]) -> str:
    """The card in a few lines, for a list."""
    lines = {
        "": card["about"],
        "data": data_of(card),
        "trained": trained_of(card),
        "scores": scores_of(card),
        "policy": policy_of(card),
        "command": card["command"].replace("\n", "; "),
        "licence": f"{card['licence']}; data: {card['data']['licence']}",
    }
    return "\n".join([card["name"], *(f"  {name:8s} {text}".rstrip() for name, text in lines.items() if text)])


def data_of(card: Mapping[str, Any]) -> str:
    """What it was trained on."""
    data, env = card["data"], card["env"]
    counts = "episodes not counted"
    if data["episodes"] is not None and data["frames"] is not None:
        counts = f"{data['episodes']:,} episodes, {data['frames']:,} frames"
    return f"{'given episodes' if env is None else env['id']}: {counts}"


def trained_of(card: Mapping[str, Any]) -> str:
    """Steps, time and machine."""
    seconds = card["seconds"]
    time = "time not known" if seconds is None else f"{seconds / 60:.0f} minutes in all"
    return f"{card['steps']:,} steps, {card['parameters'] / 1e6:.1f} M parameters, {time}, {card['machine']}"


def scores_of(card: Mapping[str, Any]) -> str:
    """PSNR, SSIM, reward and end in one line."""
    scores = card["scores"]
    if scores is None:
        return "not judged"
    ours, still, heads = scores["continued"]["model"], scores["continued"]["last frame held"], scores["heads"]
    psnr, ssim = ([number(found[metric]["mean"]) for found in (ours, still)] for metric in ("psnr", "ssim"))
    return (
        f"{scores['horizon']} frames after {scores['context']}: PSNR {psnr[0]} dB (last frame held {psnr[1]}), "
        f"SSIM {ssim[0]} ({ssim[1]}); reward AUROC {number(heads['reward_auroc'])}, "
        f"end AUROC {number(heads['termination_auroc'])}"
    )


def policy_of(card: Mapping[str, Any]) -> str:
    """What the policy reaches for real."""
    policy = card["policy"]
    if policy is None:
        return ""
    if policy["return"] is None:
        return "not judged"
    success = "" if policy["success_rate"] is None else f", success {policy['success_rate']:.0%}"
    return f"real return {policy['return']:.2f} over {policy['episodes']} episodes{success}"


_USE = """```python
import gymnasium as gym

env = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint="{}")
```"""


def page(card: Mapping[str, Any], checkpoint: str | None = None) -> str:
    """The card as a page that the hub understands: its metadata in front, then Markdown.

    `checkpoint` is the notation by which it is used, its name by default.
    """
    head = "\n".join(
        [
            "---",
            f"license: {card['licence']}",
            "library_name: lssvwm",
            "pipeline_tag: reinforcement-learning",
            "tags:",
            *(
                f"- {tag}"
                for tag in ("world-model", "gymnasium", "reinforcement-learning", "video", "state-space-model")
            ),
            "---",
        ]
    )
    facts = {"Data": data_of(card), "Licence of the data": card["data"]["licence"], "Training": trained_of(card)}
    if card["policy"] is not None:
        facts["Policy"] = policy_of(card)
    parts = [
        f"# {card['name']}",
        card["about"],
        _USE.format(checkpoint or card["name"]),
        "\n".join(f"- {name}: {text}." for name, text in facts.items()),
        f"Made by (lssvwm {card['version']}):\n\n```\n{card['command']}\n```",
        _scores(card["scores"]),
    ]
    return head + "\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _scores(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return "It was not judged on episodes that it had not seen."
    labels = list(scores["continued"]["model"]["psnr"]["by_distance"])
    lines = [("", "", "mean", "95% interval", *labels), ("---",) * (4 + len(labels))]
    for metric, title in (("psnr", "PSNR (dB)"), ("ssim", "SSIM")):
        for name, found in scores["continued"].items():
            f = found[metric]
            spread = f"{number(f['low'])} to {number(f['high'])}"
            lines.append((title, name, number(f["mean"]), spread, *(number(f["by_distance"].get(at)) for at in labels)))
    heads = scores["heads"]
    about = (
        f"Scores on {scores['episodes']} held-out episodes ({scores['frames']:,} frames): {scores['horizon']} frames "
        f"continued after {scores['context']} real ones under the recorded actions, {scores['clips']} clips at most, "
        f"{scores['steps']} denoising steps; by distance from the context."
    )
    told = [
        f"Reward on real frames: RMSE {number(heads['reward_rmse'])} (of the mean: "
        f"{number(heads['reward_rmse_of_mean'])}), AUROC {number(heads['reward_auroc'])}.",
        f"End on real frames: accuracy {_share(heads['termination_accuracy'])} (always the more frequent answer: "
        f"{_share(heads['termination_accuracy_of_constant'])}), AUROC {number(heads['termination_auroc'])}.",
    ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join(["## Scores", about, table, " ".join(told)])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
