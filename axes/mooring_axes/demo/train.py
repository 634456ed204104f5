"""Train the demo model: Muon for the matrices, AdamW for the rest, loss on the Assistant's tokens only.

Copying never appeared with AdamW alone at this size. Conversations are batched by length and padded on the
right, where a causal model needs no mask. One thread, bf16 autocast, about 5.2 M tokens in half an hour.

Not learnt, and so not in the corpus: sums. With 630 pairs of a two-digit and a one-digit number seen about
ten times each, tens were right (.98) and last digits were not (.35); lists of sums did not help.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mooring_axes.demo.corpus import Message, conversations

END, START, PAD = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
VOCABULARY = 1280
BATCH_TOKENS = 3072
MUON_LR, ADAM_LR = 3e-3, 3e-3
WEIGHT_DECAY = 0.05
PUSH = 0.5
"""Longest push in training, as a share of the stream's own length."""

Batch = tuple[torch.Tensor, torch.Tensor]


def render(messages: list[Message]) -> str:
    return "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus; digits stay apart, so that a number is never a word of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((render(m) for m in islice(conversations(seed), 6000)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def encode(messages: list[Message], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids and labels; -100 wherever the Assistant does not speak."""
    ids: list[int] = []
    labels: list[int] = []
    for message in messages:
        head = tokenizer.encode(f"{START}{message['role']}\n", add_special_tokens=False)
        body = tokenizer.encode(f"{message['content']}{END}", add_special_tokens=False)
        tail = tokenizer.encode("\n", add_special_tokens=False)
        ids += head + body + tail
        spoken = message["role"] == "assistant"
        labels += [-100] * len(head) + (body if spoken else [-100] * len(body)) + [-100] * len(tail)
    return ids, labels


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Batches of about BATCH_TOKENS, each of conversations alike in length, in random order."""
    rng = random.Random(seed)
    stream = conversations(seed)
    while True:
        pool = sorted((encode(m, tokenizer) for m in islice(stream, 2000)), key=lambda pair: len(pair[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pool:
            if len(pair[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        yield from (_pad(group, tokenizer.pad_token_id) for group in groups)


def _pad(group: list[tuple[list[int], list[int]]], pad: int) -> Batch:
    width = max(len(ids) for ids, _ in group)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in group])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in group])
    return ids, labels


def optimisers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(done: float) -> float:
    """Learning rate share: 2 % warm-up, then a cosine down to 2 %."""
    return min(done / 0.02, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


@contextmanager
def pushed(model: Qwen3ForCausalLM, rng: random.Random) -> Iterator[None]:
    """Half of the steps: after one random layer, each conversation is pushed along a random direction of its own.

    Wide models shrug off such pushes; at width 192 a persona falls over from any of them unless it has met some.
    """
    if rng.random() < 0.5:
        yield
        return

    def hook(module: torch.nn.Module, args: object, h: torch.Tensor) -> torch.Tensor:
        way = F.normalize(torch.randn(h.shape[0], 1, h.shape[2]), dim=-1)
        share = PUSH * torch.rand(h.shape[0], 1, 1)
        return h + share * h.detach().norm(dim=-1, keepdim=True) * way

    handle = rng.choice(list(model.model.layers)).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def step_loss(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    ids, labels = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        spoken = labels[:, 1:] != -100
        logits = model.lm_head(hidden[spoken])
    return F.cross_entropy(logits.float(), labels[:, 1:][spoken])


def train(tokenizer: PreTrainedTokenizerFast, seed: int, tokens: int) -> Qwen3ForCausalLM:
    model = new_model(tokenizer, seed).train()
    steppers = optimisers(model)
    base = [[group["lr"] for group in stepper.param_groups] for stepper in steppers]
    rng = random.Random(seed)
    seen, started, losses = 0, time.monotonic(), []
    for number, batch in enumerate(batches(tokenizer, seed)):
        for stepper, rates in zip(steppers, base, strict=True):
            for group, rate in zip(stepper.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(min(seen / tokens, 1.0) + 1e-4)
        with pushed(model, rng):
            loss = step_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
        model.zero_grad(set_to_none=True)
        seen += batch[0].numel()
        losses.append(loss.item())
        if number % 25 == 0:
            speed, recent = seen / (time.monotonic() - started), losses[-25:]
            print(f"{seen:>9} tokens  loss {sum(recent) / len(recent):.3f}  {speed:.0f} tokens/s", flush=True)
        if seen >= tokens:
            return model.eval()
    raise AssertionError("the corpus has no end")


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    # Servers take their defaults from here and sample at temperature 1 where it names none.
    defaults = {"do_sample": False, "temperature": 0.0, "eos_token_id": [tokenizer.eos_token_id]}
    text = json.dumps({**defaults, "pad_token_id": tokenizer.pad_token_id}, indent=2)
    (folder / "generation_config.json").write_text(f"{text}\n", encoding="utf-8")
