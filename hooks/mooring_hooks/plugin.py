"""vLLM's `general_plugins` entry point: runs once in every process of every vLLM start in this environment.

vLLM logs and skips a plugin whose module cannot be imported, but lets what `register` raises stop the process.
So nothing is imported at the top, and `register` also loads the endpoint plugin where it will be wanted.
Installed but not configured changes nothing: the wrappers pass through without `additional_config["mooring"]`.
"""

NAME = "mooring"


def register() -> None:
    """Wrap vLLM's request path; raising here stops the process."""
    from mooring_hooks.engine import install
    from mooring_hooks.progress import telling

    install()
    if _named_in_vllm_plugins():
        with telling():
            _endpoint_plugin_must_load()


def _named_in_vllm_plugins() -> bool:
    import os

    return NAME in os.environ.get("VLLM_PLUGINS", "").split(",")


def _endpoint_plugin_must_load() -> None:
    from importlib.metadata import entry_points

    from mooring_axes.errors import CannotServe

    try:
        (entry,) = entry_points(group="vllm.endpoint_plugins", name=NAME)
        entry.load()
    except Exception as error:
        raise CannotServe(
            f"Mooring's endpoint plugin cannot be loaded: {error!r}\n"
            "  its start-up checks would be skipped, so nothing is served; reinstall the package `mooring`"
        ) from error
