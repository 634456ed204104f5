"""The authors' own capping config gives, through the server, what their formula gives in transformers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import Engine, logprobs_of
from mooring_axes.convert import from_capping_config
from mooring_axes.profiles import Profile, off_profile, resolve
from tiny import LAYERS, Replay, median_projections, prompts, random_axis

pytestmark = pytest.mark.engine

TEXTS = prompts(6, seed=7)
WINDOW = range(2, 5)


@pytest.fixture(scope="module")
def config(tiny_model: Callable[[str], Path]) -> dict[str, Any]:
    """Their layout: vectors away from the Assistant and not unit, caps as ceilings in units of the unit vector."""
    axis = random_axis()
    floors = median_projections(Replay(tiny_model("qwen3"), axis), TEXTS)
    vectors = {
        f"layer_{layer}/contrast_role_pos3_default1": {
            "vector": torch.from_numpy(-axis.directions[layer] * (3.0 + layer)), "layer": layer
        }
        for layer in range(LAYERS)
    }  # fmt: skip
    interventions = [
        {"vector": f"layer_{layer}/contrast_role_pos3_default1", "cap": -floors[layer]} for layer in WINDOW
    ]
    return {"vectors": vectors, "experiments": [{"id": "layers_2:5-p0.25", "interventions": interventions}]}


@pytest.fixture(scope="module")
def engine(config: dict[str, Any], tiny_model: Callable[[str], Path], tmp_path_factory: Any) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("authors") / "capping_config.pt"
    torch.save(config, path)
    axis = from_capping_config(path, model="tiny", recommended="layers_2:5-p0.25")
    capped = Profile(name="theirs", layers="2:5", floor="cap:layers_2:5-p0.25")
    engine = Engine(tiny_model("qwen3"), [off_profile(axis), resolve(capped, axis)], dtype="float32")
    yield engine
    engine.close()


def ceiling_on_the_stored_vector(replay: Replay, config: dict[str, Any], tokens: list[int]) -> torch.Tensor:
    """h <- h - max(<h, u> - cap, 0) u with u = vector / |vector|; (T, vocabulary) logprobs."""
    handles = []
    for intervention in config["experiments"][0]["interventions"]:
        stored = config["vectors"][intervention["vector"]]
        u = stored["vector"] / stored["vector"].norm()

        def hook(module: Any, args: Any, output: Any, u: Any = u, cap: float = intervention["cap"]) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            h = h - ((h @ u) - cap).clamp(min=0)[..., None] * u
            return (h, *output[1:]) if isinstance(output, tuple) else h

        handles.append(replay.layers[stored["layer"]].register_forward_hook(hook))
    with torch.no_grad():
        logits = replay.model(torch.tensor([tokens])).logits[0]
    for handle in handles:
        handle.remove()
    return logits.log_softmax(-1)


def test_the_served_answers_equal_their_formula(
    engine: Engine, config: dict[str, Any], tiny_model: Callable[[str], Path]
) -> None:
    replay = Replay(tiny_model("qwen3"), random_axis())
    for output in engine.answer(TEXTS, "theirs"):
        answer = list(output.outputs[0].token_ids)
        logprobs = ceiling_on_the_stored_vector(replay, config, [*output.prompt_token_ids, *answer])
        steps = logprobs[len(output.prompt_token_ids) - 1 : -1]
        assert steps.argmax(-1).tolist() == answer
        wanted = steps.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist()
        assert logprobs_of(output) == pytest.approx(wanted, abs=1e-3)
