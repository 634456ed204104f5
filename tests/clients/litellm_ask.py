"""litellm as a library against a server of Mooring's: prints what it got as one JSON document.

    python litellm_ask.py BASE TALK MOST        runs in an environment of its own, without pytest and without Mooring

TALK is the messages as JSON, MOST how many tokens an answer may have.
"""

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks for a list of prices before the first call

import litellm

PROVIDERS = ("openai", "hosted_vllm")


def plain(ask: dict[str, Any]) -> dict[str, Any]:
    answer = litellm.completion(**ask)
    headers = answer._hidden_params["additional_headers"]
    return {
        "text": answer.choices[0].message.content,
        "told": answer.model_dump().get("mooring"),
        "header": headers.get("llm_provider-x-mooring-profile"),
    }


def streamed(ask: dict[str, Any]) -> dict[str, Any]:
    chunks = list(litellm.completion(**ask, stream=True))
    told = [chunk.model_dump().get("mooring") for chunk in chunks]
    return {
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        "told": told[-1],
        "objects": sum(part is not None for part in told),
        "rebuilt": litellm.stream_chunk_builder(chunks, messages=ask["messages"]).choices[0].message.content,
    }


def refused(ask: dict[str, Any]) -> dict[str, Any]:
    try:
        litellm.completion(**ask, extra_headers={"X-Mooring-Profile": "nope"})
    except litellm.BadRequestError as error:
        return {"status": error.status_code, "message": str(error)}
    return {"status": 200}


def ways(ask: dict[str, Any], provider: str) -> dict[str, Any]:
    ask = ask | {"model": f"{provider}/demo"}
    return {
        "plain": plain(ask),
        "streamed": streamed(ask),
        "uncapped": plain(ask | {"model": f"{provider}/demo:off"}),
        "refused": refused(ask),
    }


def main(base: str, talk: str, most: str) -> None:
    litellm.suppress_debug_info = True
    ask = {"api_base": f"{base}/v1", "api_key": "none", "messages": json.loads(talk), "temperature": 0,
           "max_tokens": int(most)}  # fmt: skip
    print(json.dumps({provider: ways(ask, provider) for provider in PROVIDERS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
