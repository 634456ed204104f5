"""Which of an answer's tokens are thinking, by vLLM's own reasoning parser."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mooring_server.plugin import _thinking

THINK, END, WORD = 0, 1, 2


def client(parser: str) -> SimpleNamespace:
    vocabulary = {"<think>": THINK, "</think>": END, "word": WORD}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="word")))
    config = SimpleNamespace(structured_outputs_config=SimpleNamespace(reasoning_parser=parser))
    return SimpleNamespace(vllm_config=config, get_tokenizer=lambda: tokenizer)


@pytest.mark.parametrize(
    ("prompt", "answer", "thinking"),
    [
        ([WORD], [THINK, WORD, END, WORD, WORD], 3),
        ([WORD, THINK], [WORD, WORD, END, WORD], 3),
        ([WORD, THINK], [WORD, WORD], 2),
        ([WORD], [THINK, WORD], 2),
        ([WORD, THINK, END], [WORD, WORD], 0),
        ([WORD], [WORD, WORD], 0),
        ([THINK, WORD, END, WORD], [THINK, WORD, END, WORD], 3),
        ([THINK, WORD, END, WORD], [WORD], 0),
    ],
)
def test_thinking_ends_where_the_parser_says(prompt: list[int], answer: list[int], thinking: int) -> None:
    count = _thinking(client("deepseek_r1"))
    assert count is not None and count(prompt, answer) == thinking


def test_without_a_parser_nothing_is_thinking() -> None:
    assert _thinking(client("")) is None
