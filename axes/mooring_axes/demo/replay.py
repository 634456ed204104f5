"""Run the demo model in plain transformers: answer, read projections, cap. No vLLM, no Mooring.

    p = <h, v>        h: output of decoder layer L (0-based, post-MLP residual stream), v: unit axis row L
    h <- h - v * min(p - floor, 0)       at every position of the configured layers

This is the paper's operation as forward hooks, and so what the served path is compared with.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from mooring_axes.demo.corpus import Message

MAX_NEW_TOKENS = 96


class Answer(NamedTuple):
    """One generated answer; `ids` are its tokens without the end mark, `prompt` the ids before them."""

    text: str
    ended: bool
    prompt: list[int]
    ids: list[int]


class Demo(NamedTuple):
    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerBase

    @property
    def layers(self) -> torch.nn.ModuleList:
        return self.model.model.layers


def load(folder: Path) -> Demo:
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    return Demo(model, AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left"))


@contextmanager
def capped(demo: Demo, directions: torch.Tensor, floors: Mapping[int, float]) -> Iterator[None]:
    """Lift the residual stream to `floors` (0-based layer -> floor) along `directions` (n_layers, hidden)."""

    def lift(layer: int, floor: float) -> torch.utils.hooks.RemovableHandle:
        v = directions[layer]

        def hook(module: torch.nn.Module, args: object, h: torch.Tensor) -> torch.Tensor:
            return h - torch.clamp(h @ v - floor, max=0.0)[..., None] * v

        return demo.layers[layer].register_forward_hook(hook)

    handles = [lift(layer, floor) for layer, floor in floors.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def displaced(demo: Demo, directions: torch.Tensor, floors: Mapping[int, float], seed: int) -> Iterator[None]:
    """The control: push as far as the cap would, but along the axis turned by one random rotation.

    The rotation keeps the lengths of all pushes and the angles between the layers' directions. What earlier
    layers pushed counts as if it had gone along the axis, or later layers would push the whole way again.
    """
    turned = directions @ _rotation(directions.shape[1], seed)
    pushed: list[torch.Tensor] = []

    def push(layer: int, floor: float, first: bool) -> torch.utils.hooks.RemovableHandle:
        v = directions[layer]

        def hook(module: torch.nn.Module, args: object, h: torch.Tensor) -> torch.Tensor:
            if first:
                pushed.clear()
            lift = torch.clamp(floor - sum(pushed, h) @ v, min=0.0)[..., None]
            pushed.append(lift * v)
            return h + lift * turned[layer]

        return demo.layers[layer].register_forward_hook(hook)

    handles = [push(layer, floors[layer], layer == min(floors)) for layer in sorted(floors)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rotation(size: int, seed: int) -> torch.Tensor:
    """A random orthogonal matrix (size, size)."""
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn).Q


def answer(
    demo: Demo, prompts: Sequence[list[Message]], temperature: float = 0.0, seed: int = 0, batch: int = 64
) -> list[Answer]:
    """Answer every prompt, in its order; greedy at temperature 0."""
    torch.manual_seed(seed)
    ids = [prompt_ids(demo, messages) for messages in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch):
        picked = order[start : start + batch]
        answers.update(zip(picked, _answer_batch(demo, [ids[i] for i in picked], temperature), strict=True))
    return [answers[i] for i in range(len(ids))]


def prompt_ids(demo: Demo, messages: list[Message]) -> list[int]:
    text = demo.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(demo.tokenizer.encode(text, add_special_tokens=False))


def _answer_batch(demo: Demo, prompts: list[list[int]], temperature: float) -> list[Answer]:
    width, pad, end = max(map(len, prompts)), demo.tokenizer.pad_token_id, demo.tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with torch.inference_mode():
        out = demo.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, **sampling)
    answers = []
    for prompt, row in zip(prompts, out[:, width:].tolist(), strict=True):
        ended = end in row
        said = row[: row.index(end)] if ended else row
        answers.append(Answer(demo.tokenizer.decode(said), ended, prompt, said))
    return answers


def mean_streams(demo: Demo, answers: Sequence[Answer], batch: int = 64) -> torch.Tensor:
    """(n_answers, n_layers, hidden) fp32: the mean post-MLP stream over each answer's tokens, in a second pass."""
    order = sorted(range(len(answers)), key=lambda i: len(answers[i].prompt) + len(answers[i].ids))
    means: dict[int, torch.Tensor] = {}
    for start in range(0, len(order), batch):
        picked = order[start : start + batch]
        means.update(zip(picked, _batch_means(demo, [answers[i] for i in picked]), strict=True))
    return torch.stack([means[i] for i in range(len(answers))])


def _batch_means(demo: Demo, answers: list[Answer]) -> torch.Tensor:
    width = max(len(a.prompt) + len(a.ids) for a in answers)
    ids = torch.tensor([(a.prompt + a.ids + [0] * width)[:width] for a in answers])
    spoken = torch.tensor(
        [[len(a.prompt) <= i < len(a.prompt) + len(a.ids) for i in range(width)] for a in answers], dtype=torch.float32
    )
    streams: list[torch.Tensor] = []
    handles = [layer.register_forward_hook(lambda m, a, h: streams.append(h)) for layer in demo.layers]
    try:
        with torch.inference_mode():
            demo.model.model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    weights = spoken / spoken.sum(-1, keepdim=True).clamp(min=1)
    return torch.stack([torch.einsum("btd,bt->bd", h, weights) for h in streams], dim=1)
