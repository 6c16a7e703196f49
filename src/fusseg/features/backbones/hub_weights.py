"""Weights from the Hugging Face hub: from its local cache, otherwise from the network."""

from pathlib import Path

from fusseg.core.errors import ConfigError

_SETTINGS = ("config.json", "preprocessor_config.json")
_SAFE_WEIGHTS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)
_OLD_WEIGHTS = (
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
)


def download(name: str) -> Path:
    """Find a model in the hub's cache, or fetch its settings and weights.

    A cached model is used without asking the network for a newer one. Weights in safetensors are
    preferred; the old .bin is fetched only if a model has nothing else.

    Args:
        name: Its ID on the hub, such as `facebook/dino-vitb8`.

    Returns:
        The folder with the model.

    Raises:
        ConfigError: If it is not cached and cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return _fetch(name)
    except HFValidationError as error:
        raise ConfigError(
            f"there is no folder {name!r}, and it is not an ID on the Hugging Face hub: {error}"
        ) from error
    return cached if is_complete(cached) else _fetch(name)


def is_complete(folder: Path) -> bool:
    """Tell whether a folder holds settings and weights."""
    return (folder / "config.json").is_file() and has_weights(folder)


def has_weights(folder: Path) -> bool:
    """Tell whether a folder holds weights, in either format."""
    patterns = (*_SAFE_WEIGHTS, *_OLD_WEIGHTS)
    return any(file.is_file() for pattern in patterns for file in folder.glob(pattern))


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        for weights in (_SAFE_WEIGHTS, _OLD_WEIGHTS):
            folder = Path(snapshot_download(name, allow_patterns=[*_SETTINGS, *weights]))
            if is_complete(folder):
                return folder
    except GatedRepoError as error:
        raise ConfigError(
            f"backbone {name!r} is gated; accept its license on https://huggingface.co/{name} "
            "and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"there is no folder {name!r}, and no model of this name on the Hugging Face hub; "
            "correct backbone.name, or run `hf auth login` if it is private"
        ) from error
    except OSError as error:  # no network, or HF_HUB_OFFLINE
        raise ConfigError(_offline(name)) from error
    raise ConfigError(_offline(name))


def _offline(name: str) -> str:
    folder = name.rpartition("/")[2]
    return (
        f"there is no folder {name!r}, and its weights are not in the cache of the Hugging Face "
        "hub and cannot be fetched from the hub; on a machine with a network run\n"
        "    pip install huggingface_hub\n"
        f"    hf download {name} --local-dir {folder}\n"
        f"then copy the folder {folder} here and set backbone.name to its path"
    )
