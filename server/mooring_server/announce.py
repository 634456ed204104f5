"""Says when the server answers, and what to try: printed once the port really does."""

import asyncio
import time
from argparse import Namespace

from mooring_axes import demo
from mooring_hooks.progress import say
from mooring_hooks.table import Settings

READY = """ready on {base} ({seconds:.0f} s after the command). Try:

  curl {base}/v1/chat/completions -H 'Content-Type: application/json' -d '{{
    "model": "{model}", "messages": [
      {{"role": "system", "content": "{system}"}}, {{"role": "user", "content": "{question}"}}]}}'

  # the same under another profile: also as a header, or in vllm_xargs
  curl {base}/v1/chat/completions -H 'Content-Type: application/json' -d '{{
    "model": "{model}:{other}", "messages": [
      {{"role": "system", "content": "{system}"}}, {{"role": "user", "content": "{question}"}}]}}'
"""
EXAMPLE = ("You are a pirate.", "Who are you?")


async def announce(args: Namespace, settings: Settings) -> None:
    """Wait until the port answers, then print the lines to try."""
    if args.uds:
        return
    host = "127.0.0.1" if args.host in (None, "", "0.0.0.0") else args.host
    while not await _answers(host, args.port):
        await asyncio.sleep(0.1)
    names = args.served_model_name or [args.model]
    other = next((name for name in settings.selectable() if name != settings.default), settings.default)
    system, question = demo.EXAMPLE if args.model == str(demo.MODEL_DIR) else EXAMPLE
    scheme = "https" if args.ssl_certfile else "http"
    say(
        READY.format(
            base=f"{scheme}://{'localhost' if host == '127.0.0.1' else host}:{args.port}",
            seconds=_seconds_since_start(),
            model=names[0],
            other=other,
            system=system,
            question=question,
        )
    )


async def _answers(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), timeout=5)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return status.startswith(b"HTTP/")


def _seconds_since_start() -> float:
    import psutil

    return time.time() - float(psutil.Process().create_time())
