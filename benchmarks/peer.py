"""One of the ways to cap of peers.py, as a process: `python peer.py NAME MODEL FOLDER`.

Every line of stdin asks for a batch: {"seed": 1, "requests": 16, "tokens": 64}. Prompts are random token ids, equal for
equal seeds; answers are greedy and as long as was asked for. Each batch is answered by a line {"seconds": ...,
"answers": [[token, ...], ...]}.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from mooring_axes import demo
from mooring_axes.artifact import Axis
from mooring_axes.profiles import ResolvedProfile, load_profiles, recommended_profile, resolve
from overhead import vocabulary

PROMPT_TOKENS: Final = 32
FIRST_WORD: Final = 3
Batch = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, tokens of every answer) -> the answers' ids."""


class Subject(NamedTuple):
    """The model and its cap."""

    folder: str
    served: str
    axis_file: Path
    profile: ResolvedProfile
    vocabulary: int


def main(name: str, model: str, folder: Path) -> None:
    subject = subject_of(model, folder)
    batch = WAYS[name](subject)
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        rng = np.random.default_rng(asked["seed"])
        prompts = rng.integers(FIRST_WORD, subject.vocabulary, (asked["requests"], PROMPT_TOKENS)).tolist()
        began = time.perf_counter()
        answers = batch(prompts, asked["tokens"])
        seconds = time.perf_counter() - began
        assert [len(answer) for answer in answers] == [asked["tokens"]] * asked["requests"]
        print(json.dumps({"seconds": seconds, "answers": answers}), flush=True)


def subject_of(model: str, folder: Path) -> Subject:
    if model == "demo":
        axis = Axis.load(demo.AXIS_FILE)
        file = load_profiles(demo.PROFILES_FILE)
        profile = next(profile for profile in file.profiles if profile.name == file.default)
        return Subject(str(demo.MODEL_DIR), "demo", demo.AXIS_FILE, resolve(profile, axis), vocabulary(demo.MODEL_DIR))
    own, axis_file = folder / "model", folder / "axis.safetensors"
    axis = Axis.load(axis_file)
    recommended = recommended_profile(axis)
    assert recommended is not None
    return Subject(str(own), str(own), axis_file, resolve(recommended, axis), vocabulary(own))


def capped(stream: torch.Tensor, v: torch.Tensor, remap: Any) -> torch.Tensor:
    """(T,) what has to be added along v to every row of the stream (T, D)."""
    p = stream.float() @ v
    return torch.clamp(remap.scale * p + remap.shift, remap.floor, remap.ceiling) - p


def directions(profile: ResolvedProfile) -> dict[int, torch.Tensor]:
    return {layer: torch.from_numpy(profile.axis.directions[layer].copy()) for layer in profile.remaps}


# --- transformers --------------------------------------------------------------------------------


def transformers_hooks(subject: Subject) -> Batch:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(subject.folder, dtype="auto").eval()
    model.generation_config.eos_token_id = None  # a token like any other, as with vLLM's ignore_eos
    vectors = directions(subject.profile)

    def at(layer: int) -> Any:
        v, remap = vectors[layer], subject.profile.remaps[layer]

        def hook(module: Any, arguments: Any, output: Any) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            h = (h.float() + capped(h, v, remap)[..., None] * v).to(h.dtype)
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return hook

    for layer in vectors:
        model.get_decoder().layers[layer].register_forward_hook(at(layer))

    @torch.no_grad()
    def batch(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        given = torch.tensor(prompts)
        found = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False)
        answers: list[list[int]] = found[:, given.shape[1] :].tolist()
        return answers

    return batch


# --- vLLM ----------------------------------------------------------------------------------------


class CapEagerly:
    """Mixed into vLLM's worker: a hook per capped layer that caps the rows of one request after the other."""

    def cap_eagerly(self, model: str, folder: str) -> int:
        profile = subject_of(model, Path(folder)).profile
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        vectors = directions(profile)

        def at(layer: int) -> Any:
            v, remap = vectors[layer], profile.remaps[layer]

            def hook(module: Any, arguments: Any, output: Any) -> Any:
                hidden, residual = output
                ends = runner.query_start_loc.np
                for i in range(runner.input_batch.num_reqs):
                    rows = slice(int(ends[i]), int(ends[i + 1]))
                    lift = capped(hidden[rows] + residual[rows], v, remap)
                    hidden[rows] += (lift[:, None] * v).to(hidden.dtype)
                return hidden, residual

            return hook

        for layer in vectors:
            runner.model.model.layers[layer].register_forward_hook(at(layer))
        return len(vectors)


OPTIONS: Final[dict[str, Any]] = {"max_model_len": 2048, "max_num_seqs": 64, "enable_prefix_caching": False}


def _sampled(llm: Any) -> Batch:
    from vllm import SamplingParams

    def batch(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        given = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], given, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return batch


def stock(subject: Subject) -> Batch:
    import vllm

    return _sampled(vllm.LLM(subject.folder, **OPTIONS))


def vllm_hooks(subject: Subject) -> Batch:
    import vllm

    llm = vllm.LLM(subject.folder, enforce_eager=True, worker_extension_cls="peer.CapEagerly", **OPTIONS)
    (layers,) = llm.collective_rpc("cap_eagerly", args=(sys.argv[2], sys.argv[3]))
    assert layers == len(subject.profile.remaps)
    return _sampled(llm)


def mooring(subject: Subject) -> Batch:
    from mooring_server.offline import LLM

    own: dict[str, Any] = {} if subject.served == "demo" else {"axis": subject.axis_file, "axis_of_another_model": True}
    return _sampled(LLM(subject.served, **own, **OPTIONS))


WAYS: Final[dict[str, Callable[[Subject], Batch]]] = {
    "transformers": transformers_hooks, "vllm-hooks": vllm_hooks, "mooring": mooring, "vllm": stock,
}  # fmt: skip

if __name__ == "__main__":
    os.environ |= {
        "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_USE_V2_MODEL_RUNNER": "0",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    if sys.argv[1] != "mooring":
        os.environ["VLLM_PLUGINS"] = ""
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
