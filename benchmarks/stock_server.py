"""Stock vLLM, served as `vllm serve` serves it: the baseline, in which nothing of Mooring is imported.

    python benchmarks/stock_server.py MODEL [any vllm serve option]

The `vllm` command asks for a distribution named `vllm`, and the CPU build is another one; so its parts are called
here, the same ones in the same order as behind `mooring serve`. Whoever starts this leaves `mooring` out of
VLLM_PLUGINS, or the plugin that is installed would load.
"""

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    if "mooring" in os.environ.get("VLLM_PLUGINS", "mooring").split(","):
        sys.exit("stock_server: VLLM_PLUGINS must be set and must not name mooring: this is the server without it")
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    options = make_arg_parser(FlexibleArgumentParser(prog="vllm serve")).parse_args(list(arguments))
    configure_logging_from_args(options)
    command = ServeSubcommand()
    command.validate(options)
    command.cmd(options)


if __name__ == "__main__":
    main(sys.argv[1:])
