"""Which of an answer's tokens are thinking, by the marks of vLLM's own reasoning parsers."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mooring_server.plugin import _thinking

THINK, END, WORD = 0, 1, 2
PARSERS = ("deepseek_r1", "qwen3", "glm45")


def client(parser: str) -> SimpleNamespace:
    vocabulary = {"<think>": THINK, "</think>": END, "word": WORD, "[UNK]": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")), unk_token="[UNK]"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    config = SimpleNamespace(structured_outputs_config=SimpleNamespace(reasoning_parser=parser))
    return SimpleNamespace(vllm_config=config, get_tokenizer=lambda: tokenizer)


@pytest.mark.parametrize("parser", PARSERS)
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
def test_thinking_ends_where_its_mark_is(parser: str, prompt: list[int], answer: list[int], thinking: int) -> None:
    found = _thinking(client(parser))
    assert found is not None and found.length(answer, found.opened_by(prompt)) == thinking


def test_without_a_parser_nothing_is_thinking() -> None:
    assert _thinking(client("")) is None


@pytest.mark.parametrize("parser", ["deepseek_v3", "openai_gptoss"])
def test_a_parser_without_a_mark_of_one_token_is_told(parser: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert _thinking(client(parser)) is None
    assert f"the reasoning parser '{parser}' knows no token that ends thinking" in capfd.readouterr().err
