"""The models that are measured, with axes that lift: run once, in a process of its own, before any server starts.

    python benchmarks/stand_in.py demo|qwen3-0.6b-shape|qwen3-tiny-shape|MODEL FOLDER

MODEL is a folder or a hub name: its own weights, under random axes. FOLDER then holds
    model/                  of a shape only: a Qwen3 of that configuration with random weights (seed 0), and a
                            tokenizer of as many entries. Speed depends on shapes and not on what they say.
    axis.safetensors        not of the demo: random unit directions that recommend the cap that is measured
    axis-01 ... axis-126    126 more, each with its own directions, for the measurements with 16 and 128 profiles
    profiles-16.yaml        `default`, and one profile for each of the first 14
    profiles-128.yaml       the same for all 126
    made.json               the layers, and by what the floors were found; written last

Floors are the medians of the projections on each direction, read at every position of random prompts and of their
greedy answers in an unmodified transformers model: each cap lifts about half of the rows it sees.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from arms import DEFAULT, SLOTS, more_profiles, profile_file
from mooring_axes import demo
from mooring_axes.artifact import Axis, Recommended

QWEN: Final = "qwen3-0.6b-shape"
TINY: Final = "qwen3-tiny-shape"
"""Four narrow layers, for what costs the same whatever the model: a step takes little longer than vLLM's own work."""
DEMO: Final = "demo"
MADE: Final = "made.json"
MORE_AXES: Final = more_profiles(max(SLOTS.values()))
"""Every profile beside `off` and `default` has the axis of its name."""
PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 16, 64, 32
"""Of the calibration."""


class Capped(NamedTuple):
    """Where a model is capped and read; 0-based layers."""

    layers: range
    monitored: int


PLACES: Final = {
    demo.MODEL_NAME: Capped(range(4, 7), 3),
    # The window that the paper caps in Qwen3-32B (46:54 of 64) and the middle layer, in 28 layers.
    QWEN: Capped(range(17, 25), 14),
}

QWEN_CONFIG: Final[dict[str, Any]] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    QWEN: QWEN_CONFIG,
    TINY: QWEN_CONFIG
    | {
        "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    },
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.model in SHAPES:
        make_model(SHAPES[options.model], options.folder / "model")
        make_axes(options.folder / "model", options.model, options.folder)
    elif options.model == DEMO:
        make_axes(demo.MODEL_DIR, demo.MODEL_NAME, options.folder)
    else:
        make_axes(options.model, options.model, options.folder)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    own = argparse.ArgumentParser(description="Make what benchmarks/overhead.py serves.", allow_abbrev=False)
    own.add_argument("model", help=f"{DEMO}, {', '.join(SHAPES)}, or any model that transformers loads")
    own.add_argument("folder", type=Path)
    return own.parse_args(arguments)


def make_model(config: dict[str, Any], folder: Path) -> None:
    """Write a shape with random weights in bf16, and its tokenizer: 1.2 GB of QWEN."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**config), dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    make_tokenizer(config["vocab_size"]).save_pretrained(folder)


def make_tokenizer(entries: int) -> PreTrainedTokenizerFast:
    """One made-up word for every id: text is as long as that of a real vocabulary of this size."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(entries)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0")


def make_axes(model: Path | str, name: str, folder: Path) -> None:
    """Write the axes, the profile file, and what is known about them."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    depth, width = network.config.num_hidden_layers, network.config.hidden_size
    place = PLACES.get(name) or place_in(depth)
    directions = [random_directions(depth, width, seed) for seed in range(len(MORE_AXES) + 1)]
    projections = read_projections(network, np.stack(directions))
    axes = [make_axis(d, projections[i], name, place) for i, d in enumerate(directions)]
    own = axes[0] if name != demo.MODEL_NAME else None
    if own is not None:
        own.save(folder / "axis.safetensors")
    for named, axis in zip(MORE_AXES, axes[1:], strict=True):
        axis.save(folder / f"{named}.safetensors")
    for slots in SLOTS.values():
        profiles = yaml.safe_dump(profiles_of(place, own, slots), sort_keys=False)
        (folder / profile_file(slots)).write_text(profiles)
    (folder / MADE).write_text(json.dumps(facts(name, place), indent=2) + "\n")


def place_in(depth: int) -> Capped:
    """Where QWEN is capped and read, in a model of `depth` layers."""
    of = PLACES[QWEN]
    first, end, monitored = (round(layer * depth / QWEN_CONFIG["num_hidden_layers"]) for layer in (
        of.layers.start, of.layers.stop, of.monitored,
    ))  # fmt: skip
    return Capped(range(first, max(end, first + 1)), monitored)


def random_directions(depth: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    """(depth, width) unit rows."""
    rows = np.random.default_rng(seed).normal(size=(depth, width)).astype(np.float32)
    unit: npt.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def read_projections(network: Any, directions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(A, depth, T) projections of every position on each of `directions` (A, depth, width), nothing capped."""
    torch.manual_seed(1)
    prompts = torch.randint(3, network.config.vocab_size, (PROMPTS, PROMPT_TOKENS))
    axes = torch.from_numpy(directions)
    found: dict[int, torch.Tensor] = {}

    def hook_at(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            found[layer] = stream.float().reshape(-1, stream.shape[-1]) @ axes[:, layer].T

        return hook

    with torch.no_grad():
        answers = network.generate(
            prompts, max_new_tokens=ANSWER_TOKENS, min_new_tokens=ANSWER_TOKENS, do_sample=False,
            attention_mask=torch.ones_like(prompts), pad_token_id=0,
        )  # fmt: skip
        handles = [layer.register_forward_hook(hook_at(i)) for i, layer in enumerate(network.model.layers)]
        network.model(answers)
        for handle in handles:
            handle.remove()
    projections: npt.NDArray[np.float32] = torch.stack([found[i] for i in sorted(found)]).permute(2, 0, 1).numpy()
    return projections


def make_axis(
    directions: npt.NDArray[np.float32], projections: npt.NDArray[np.float32], name: str, place: Capped
) -> Axis:
    """An axis whose cap `half` lifts half of `projections` (depth, T); quartiles stand for the means of drift."""
    low, middle, high = np.quantile(projections, (0.25, 0.5, 0.75), axis=1).astype(np.float32)
    return Axis(
        directions=directions,
        norms=np.ones(len(directions), np.float32),
        model=name,
        monitored_layer=place.monitored,
        default_mean=high,
        role_mean=low,
        caps={"half": {layer: float(middle[layer]) for layer in place.layers}},
        recommended=Recommended(f"{place.layers.start}:{place.layers.stop}", "cap:half"),
        provenance={"made by": "benchmarks/stand_in.py: random directions, for measurements of speed"},
    )


def profiles_of(place: Capped, own: Axis | None, slots: int) -> dict[str, Any]:
    """The default profile, and one for each further axis. `own` None: the demo, whose default is kept."""
    layers = f"{place.layers.start}:{place.layers.stop}"
    floor = "default_p25" if own is None else "cap:half"
    more = [
        {"name": named, "axis": f"{named}.safetensors", "layers": layers, "floor": "cap:half"}
        for named in more_profiles(slots)
    ]
    return {"default": DEFAULT, "profiles": [{"name": DEFAULT, "layers": layers, "floor": floor}, *more]}


def facts(name: str, place: Capped) -> dict[str, Any]:
    return {
        "model": name,
        "capped_layers": list(place.layers),
        "monitored_layer": place.monitored,
        "floors": "median projection of each direction",
        "calibration": {"prompts": PROMPTS, "prompt_tokens": PROMPT_TOKENS, "answer_tokens": ANSWER_TOKENS},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
