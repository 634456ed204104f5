"""Tiny models of real architectures with random weights, and a plain replay of the cap in transformers.

The replay is the definition that the server is held against: forward hooks on the decoder layers of an
unmodified transformers model, in fp32, that do h <- h - v min(<h, v> - floor, 0) (and its generalisation) at
every position, or from the prompt's length on.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from mooring_axes.artifact import Axis
from mooring_axes.profiles import ResolvedProfile

LAYERS, WIDTH, VOCABULARY = 6, 96, 320
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 160,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 257,
    "pad_token_id": None,
}
_TIED = {**_SHAPE, "tie_word_embeddings": True}
CONFIGS: dict[str, Any] = {
    "qwen3": lambda: Qwen3Config(**_SHAPE, head_dim=32),
    "qwen3-even": lambda: Qwen3Config(**_SHAPE | {"num_attention_heads": 4, "num_key_value_heads": 2}, head_dim=32),
    "qwen2": lambda: Qwen2Config(**_SHAPE),
    "llama": lambda: LlamaConfig(**_SHAPE),
    "mistral": lambda: MistralConfig(**_SHAPE, sliding_window=None),
    "gemma2": lambda: Gemma2Config(**_TIED, head_dim=32, query_pre_attn_scalar=32, sliding_window=64),
    "cohere": lambda: CohereConfig(**_TIED, logit_scale=1.0),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=3, n_positions=1024, initializer_range=0.15,
        bos_token_id=None, eos_token_id=257,
    ),
}  # fmt: skip


def make_model(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a model with random weights (seed 0) and a byte tokenizer; return its folder."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]()).to(dtype)
    with torch.no_grad():  # norms of exactly one would hide a weight that is applied wrongly
        for name, weight in model.named_parameters():
            if "norm" in name or ".ln_" in name:
                weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return fast


def random_axis(n_layers: int = LAYERS, width: int = WIDTH, seed: int = 0, monitored_layer: int = 1) -> Axis:
    """Random unit directions: with random weights nothing better is known."""
    directions = np.random.default_rng(seed).normal(size=(n_layers, width)).astype(np.float32)
    norms = np.linalg.norm(directions, axis=1)
    return Axis(directions / norms[:, None], norms, model="tiny", monitored_layer=monitored_layer)


def prompts(count: int, seed: int = 0, lengths: tuple[int, int] = (5, 40)) -> list[list[int]]:
    """Random byte tokens of mixed lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, rng.integers(*lengths)).tolist() for _ in range(count)]


@dataclass(frozen=True)
class Replayed:
    """One forward pass over a whole sequence; T positions."""

    logprobs: torch.Tensor
    """(T, vocabulary) of the next token."""
    projections: dict[int, torch.Tensor]
    """layer -> (T,) before the cap of that layer."""
    lifts: dict[int, torch.Tensor]
    """layer -> (T,) what the cap added."""


class Replay:
    """An unmodified transformers model whose decoder layers carry plain forward hooks."""

    def __init__(self, folder: Path, axis: Axis) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.axis = axis
        body = self.model.get_decoder() if hasattr(self.model, "get_decoder") else self.model.base_model
        self.layers = body.h if hasattr(body, "h") else body.layers

    def run(self, tokens: Sequence[int], profile: ResolvedProfile | None, prompt_length: int = 0) -> Replayed:
        """`profile` None: nothing is capped."""
        projections: dict[int, torch.Tensor] = {}
        lifts: dict[int, torch.Tensor] = {}
        with torch.no_grad(), self._hooks(profile, prompt_length, projections, lifts):
            logits = self.model(torch.tensor([list(tokens)])).logits[0].float()
        return Replayed(logits.log_softmax(-1), projections, lifts)

    @contextlib.contextmanager
    def _hooks(
        self,
        profile: ResolvedProfile | None,
        prompt_length: int,
        projections: dict[int, torch.Tensor],
        lifts: dict[int, torch.Tensor],
    ) -> Iterator[None]:
        def hook_at(layer: int) -> Any:
            v = torch.from_numpy(self.axis.directions[layer].copy())

            def hook(module: Any, args: Any, output: Any) -> Any:
                h = output[0] if isinstance(output, tuple) else output
                p = (h * v).sum(-1)
                projections[layer] = p.flatten()
                change = profile.remaps.get(layer) if profile is not None else None
                if change is None:
                    lifts[layer] = torch.zeros_like(p).flatten()
                    return output
                q = torch.clamp(change.scale * p + change.shift, change.floor, change.ceiling)
                lift = q - p
                if profile.positions == "response":
                    lift[:, :prompt_length] = 0
                lifts[layer] = lift.flatten()
                h = h + lift[..., None] * v
                return (h, *output[1:]) if isinstance(output, tuple) else h

            return hook

        handles = [layer.register_forward_hook(hook_at(i)) for i, layer in enumerate(self.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def median_projections(replay: Replay, sequences: Sequence[Sequence[int]]) -> list[float]:
    """Per layer, over all positions of all sequences, uncapped: floors that lift about half of the rows."""
    runs = [replay.run(tokens, None).projections for tokens in sequences]
    return [float(torch.cat([run[layer] for run in runs]).median()) for layer in range(len(replay.layers))]
