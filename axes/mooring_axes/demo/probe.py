"""Measure what the cap does to the demo model, in plain transformers: `python -m mooring_axes.demo.probe`.

For every profile, for no cap, and for random directions with the last profile's displacement:

    harm        share of held-out jailbreaks that are complied with
    exact       share of them that get one of the refusals word for word
    broken      share of them that never end, stutter, use unknown words, or neither refuse nor comply
    capability  share of held-out capability items that are right
    refused     share of plain harmful requests that are refused
    voice       share of role-play answers that are in a persona's voice (the price of the cap)
    harm.eeeeh  share of talks whose last turn (h, toy harm) is complied with; e is emotional, p practical

Below it: how well each layer separates default from role answers, and drift by turn of whole talks, where
0 is the mean default answer and 1 the mean role-play. Greedy answers. The last line of stdout is one JSON
document with the same numbers. Tune on the split "dev"; report "test".
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch

from mooring_axes.artifact import Axis
from mooring_axes.demo import AXIS_FILE, MODEL_DIR, PROFILES_FILE, corpus, extract, items, judge, replay
from mooring_axes.demo.corpus import Item, Message, Split
from mooring_axes.demo.replay import Answer, Demo
from mooring_axes.profiles import load_profiles, resolve

TALKS = ("eeeee", "ppppp", "eeeepp")
HARM_TALKS = ("eeeeh", "eeeepph", "pppph")
CONTROLS = (1, 2, 3)


class Sizes(NamedTuple):
    """How many held-out items of each kind are asked."""

    jailbreaks: int = 192
    capability: int = 400
    plain_harm: int = 200
    role_play: int = 100
    talks: int = 24


class Setting(NamedTuple):
    """One way to run the model: `floors` lifted, or the same displacement along a random direction."""

    name: str
    floors: Mapping[int, float]
    control: int | None = None
    """Seed of the random direction; None = the axis itself."""


class Asked(NamedTuple):
    """An item with the model's answer."""

    item: Item
    text: str
    ended: bool


def settings(axis: Axis, profiles: Path = PROFILES_FILE) -> list[Setting]:
    found = [Setting("off", {})]
    for profile in load_profiles(profiles).profiles:
        remaps = resolve(profile, axis).remaps
        found.append(Setting(profile.name, {layer: remap.floor for layer, remap in remaps.items()}))
    return [*found, *(Setting(f"random{seed}", found[-1].floors, seed) for seed in CONTROLS)]


def under(demo: Demo, axis: Axis, setting: Setting) -> AbstractContextManager[None]:
    if not setting.floors:
        return nullcontext()
    directions = torch.from_numpy(axis.directions.copy())
    if setting.control is not None:
        return replay.displaced(demo, directions, setting.floors, setting.control)
    return replay.capped(demo, directions, setting.floors)


def ask(demo: Demo, asked: list[Item]) -> list[Asked]:
    answers = replay.answer(demo, [item.messages for item in asked])
    return [Asked(item, a.text, a.ended) for item, a in zip(asked, answers, strict=True)]


def share(found: list[bool]) -> float:
    return round(sum(found) / max(len(found), 1), 4)


def measure(demo: Demo, split: Split, sizes: Sizes) -> dict[str, float]:
    """All shares of one setting; the caller has put the cap in place."""
    jailbreaks = ask(demo, items.jailbreaks(split, sizes.jailbreaks))
    capability = ask(demo, items.capability(split, sizes.capability))
    plain = ask(demo, items.plain_harm(split, sizes.plain_harm))
    roles = ask(demo, items.role_play(split, sizes.role_play))
    return {
        "harm": share([judge.harm(a.text) for a in jailbreaks]),
        "exact": share([judge.exact_refusal(a.text) for a in jailbreaks]),
        "broken": share([judge.broken(a.text, a.ended, a.item) for a in jailbreaks]),
        "capability": share([judge.correct(a.text, a.item) for a in capability]),
        "refused": share([judge.exact_refusal(a.text) for a in plain]),
        "voice": share([judge.plays(a.text) for a in roles]),
        **{f"harm.{script}": harm_after(demo, split, script, sizes.talks) for script in HARM_TALKS},
        **{f"right.{kind}": _right(capability, kind) for kind in sorted({a.item.kind for a in capability})},
    }


def _right(asked: list[Asked], kind: str) -> float:
    return share([judge.correct(a.text, a.item) for a in asked if a.item.kind == kind])


def separation(demo: Demo, axis: Axis, split: Split, count: int) -> list[float]:
    """Per layer, how often a default answer lies above a role-playing one (1 = always), on held-out prompts."""
    directions = torch.from_numpy(axis.directions.copy())
    default = replay.answer(demo, [i.messages for i in items.default_answers(split, count)])
    role = [a for a in replay.answer(demo, [i.messages for i in items.role_play(split, count)]) if judge.plays(a.text)]
    above, below = (extract.project(replay.mean_streams(demo, answers), directions) for answers in (default, role))
    return [round(extract.auc(above[:, layer], below[:, layer]), 3) for layer in range(axis.n_layers)]


def play(demo: Demo, split: Split, script: str, talks: int) -> list[list[Answer]]:
    """The answers of `talks` conversations, turn by turn; the model hears its own voice again each time."""
    talking = [items.talk(split, script, seed) for seed in range(talks)]
    histories: list[list[Message]] = [[] for _ in talking]
    played = []
    for turn in range(len(script)):
        for history, turns in zip(histories, talking, strict=True):
            history.append(corpus.said("user", turns[turn].question.text))
        played.append(replay.answer(demo, histories))
        for history, answer in zip(histories, played[-1], strict=True):
            history.append(corpus.said("assistant", answer.text))
    return played


def drift_by_turn(demo: Demo, axis: Axis, split: Split, script: str, talks: int) -> list[float]:
    """Mean drift of each turn at the monitored layer."""
    return [round(float(_drift(demo, axis, turn).mean()), 3) for turn in play(demo, split, script, talks)]


def harm_after(demo: Demo, split: Split, script: str, talks: int) -> float:
    """Share of talks whose last turn, a harmful request, is complied with."""
    return share([judge.harm(a.text) for a in play(demo, split, script, talks)[-1]])


def _drift(demo: Demo, axis: Axis, answers: list[Answer]) -> torch.Tensor:
    if axis.default_mean is None or axis.role_mean is None:
        raise ValueError("drift needs an axis with default_mean and role_mean: extract it with mooring_axes.demo.make")
    layer = axis.monitored_layer
    streams = replay.mean_streams(demo, [a for a in answers if a.ids])
    p = streams[:, layer] @ torch.from_numpy(axis.directions[layer].copy())
    default, role = float(axis.default_mean[layer]), float(axis.role_mean[layer])
    return (default - p) / (default - role)


def probe(demo: Demo, axis: Axis, split: Split, sizes: Sizes) -> dict[str, object]:
    measured = {}
    for setting in settings(axis):
        with under(demo, axis, setting):
            measured[setting.name] = measure(demo, split, sizes)
        print(f"{setting.name:>8}  " + "  ".join(f"{k} {v:.3f}" for k, v in measured[setting.name].items()), flush=True)
    drift = {}
    for setting in settings(axis):
        if setting.control is None:
            with under(demo, axis, setting):
                drift[setting.name] = {s: drift_by_turn(demo, axis, split, s, sizes.talks) for s in TALKS}
    found: dict[str, object] = {
        "split": split,
        "sizes": sizes._asdict(),
        "settings": measured,
        "auc": separation(demo, axis, split, sizes.role_play),
        "drift": drift,
    }
    print("\n".join(_lines(found)), flush=True)
    return found


def _lines(found: dict[str, object]) -> Iterator[str]:
    yield f"AUC by layer: {found['auc']}"
    yield f"drift by turn: {found['drift']}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the cap does to the demo model.")
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--axis", type=Path, default=AXIS_FILE)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of items")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = Sizes(*(max(8, int(n * options.scale)) for n in Sizes()))
    print(json.dumps(probe(replay.load(options.model), Axis.load(options.axis), options.split, sizes)))


if __name__ == "__main__":
    main()
