"""Loaded by schemathesis: requests that reach the model, and what must hold for every answer.

What a schema allows is mostly refused: no such model, nothing to say, a million tokens. So a generated body gets a
model and something to say where it has nothing, few tokens, and sometimes a wish of Mooring's own.

Every reply is noted in the file $REPLIES, and of a server error what was asked, so that stock vLLM can be asked too.
"""

import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

FEW = 8
TALK = [{"role": "user", "content": "Who are you?"}]
SAID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TALK, "max_tokens": FEW},
    "/v1/completions": {"prompt": "The sea", "max_tokens": FEW},
    "/v1/responses": {"input": "Who are you?", "max_output_tokens": FEW},
    "/v1/messages": {"messages": TALK, "max_tokens": FEW},
}
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "n")
CONTEXT = 2048
"""A larger limit is refused, so it can stay what it is."""
# Where these are null, vLLM breaks its stream off before the first event, with Mooring or without:
# test_what_stock_vllm_cannot_answer_is_not_answered_otherwise.
NEVER_NULL = ("background", "truncation")
WISHES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "mooring_profile": st.sampled_from(["off", "gentle", "strong", "nope", "", 0, ["off"], []]),
        "mooring_tokens": st.sampled_from([0, 1, 2, 0.5, "1", [1]]),
    },
)


@schemathesis.hook
def before_generate_body(context: schemathesis.HookContext, strategy: Any) -> Any:
    said = SAID.get(context.operation.path)
    if said is None:
        return strategy
    return st.builds(plausible, st.just(said), strategy, st.booleans(), st.booleans(), WISHES)


def plausible(said: dict[str, Any], body: Any, plain: bool, stream: bool, wishes: dict[str, Any] | None) -> Any:
    """`body` as something that the model can be asked; `plain` replaces what it says, too."""
    if not isinstance(body, dict):
        return body
    body = {name: value for name, value in body.items() if value is not None or name not in NEVER_NULL}
    kept = {} if plain else {name: body[name] for name in said if body.get(name)}
    body = body | said | kept | {"model": "demo", "stream": stream}
    body |= {name: few(body[name]) for name in LIMITS if name in body}
    return body if wishes is None else body | {"vllm_xargs": wishes}


def few(limit: Any) -> Any:
    return min(limit, FEW) if isinstance(limit, int) and limit <= CONTEXT else limit


@schemathesis.check
def an_answer_says_its_profile_and_where_it_lay(context: Any, response: Any, case: Any) -> None:
    if case.operation.path not in SAID or response.status_code != 200:
        return
    text = response.content.decode()
    assert "x-mooring-profile" in response.headers, "no header says the profile"
    assert '"mooring":' in text or text.startswith('data: {"error":'), "no `mooring` object"


@schemathesis.check
def a_reply_is_noted(context: Any, response: Any, case: Any) -> None:
    noted = {"path": case.operation.path, "status": response.status_code}
    if response.status_code >= 500:
        noted |= {"body": case.body, "text": response.content.decode()}
    with open(os.environ["REPLIES"], "a") as file:
        file.write(json.dumps(noted, default=repr) + "\n")
