"""Publishing models on the Hugging Face hub, and fetching them from there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fusseg.core.errors import ConfigError, DataError, first_line
from fusseg.export.artifact import Artifact, save_artifact
from fusseg.export.model_card import CARD, MODEL_FILE, PREVIEW, model_card

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Publication:
    """Where a model is published, and under which license."""

    repo_id: str
    """Repository, as OWNER/NAME."""
    private: bool = False
    license_id: str | None = None
    """Name of the license on the hub, such as `apache-2.0`; None: the card names no license."""
    preview: Path | None = None
    """A picture for the card."""

    def __post_init__(self) -> None:
        """Check names and preview.

        Raises:
            ConfigError: If the name or license has a wrong form, or the preview is no picture.
        """
        if not re.fullmatch(_REPOSITORY, self.repo_id):
            raise ConfigError(f"a repository is named OWNER/NAME, got {self.repo_id!r}")
        _check_repository(self.repo_id)
        if self.license_id and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license_id):
            raise ConfigError(
                f"a license is named as the hub lists it, such as apache-2.0, got "
                f"{self.license_id!r}"
            )
        if self.preview is None:
            return
        if not self.preview.is_file() or self.preview.suffix.lower() not in _PICTURES:
            raise ConfigError(
                f"the preview must be a picture ({', '.join(_PICTURES)}), got {self.preview}"
            )


def _check_repository(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(
            f"the hub has no repository named {repo_id!r}: {first_line(error)}; choose another name"
        ) from error


def write_repository(folder: Path, artifact: Artifact, publication: Publication) -> list[Path]:
    """Write the files of a repository: model, card, and preview if there is one.

    Returns:
        The files that were written.

    Raises:
        DataError: If a file cannot be written.
    """
    source, picture = publication.preview, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if source is not None:
            picture = f"{PREVIEW}{source.suffix.lower()}"
            (folder / picture).write_bytes(source.read_bytes())
        card = model_card(artifact, publication.repo_id, publication.license_id, picture)
        (folder / CARD).write_text(card, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    save_artifact(folder / MODEL_FILE, artifact)
    return [folder / name for name in (MODEL_FILE, CARD, picture) if name]


def push(artifact: Artifact, publication: Publication) -> str:
    """Upload a model to the hub in one commit; the repository is created if it does not exist.

    Args:
        artifact: The model.
        publication: Where it is published.

    Returns:
        URL of the commit.

    Raises:
        ConfigError: If the hub cannot be reached or refuses the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, repo = HfApi(), publication.repo_id
    with TemporaryDirectory() as folder:
        files = write_repository(Path(folder), artifact, publication)
        try:
            api.create_repo(repo, private=publication.private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                allow_patterns=[file.name for file in files],
                commit_message="Upload a model with fusseg",
            )
        except HfHubHTTPError as error:
            raise ConfigError(
                f"the Hugging Face hub refuses {repo}: {first_line(error)}; {_remedy(error)}"
            ) from error
        except Exception as error:  # the errors of its connections share no base class
            if not _is_connection(error):
                raise
            raise ConfigError(
                f"the Hugging Face hub cannot be reached: {first_line(error)}; write the files "
                "with --dry-run FOLDER and upload them from a machine with a network"
            ) from error
    return str(done.commit_url)


def _remedy(error: "HfHubHTTPError") -> str:
    if error.response.status_code >= 500 or error.response.status_code == 429:
        return "try again later, or write the files with --dry-run FOLDER"
    return "run `hf auth login` with a token that may write there"


def find_model(source: str | Path) -> Path:
    """Find a model file: at a path, in a folder, or on the hub.

    Args:
        source: A model file, a folder with `model.safetensors`, or OWNER/NAME on the hub. A path
            that exists is preferred to the hub.

    Raises:
        ConfigError: If it is no existing path and cannot be fetched from the hub.
        DataError: If the folder contains no model.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise DataError(f"{path} contains no {MODEL_FILE}; write one with fusseg pack")
        return path / MODEL_FILE
    if path.exists():
        return path
    if not re.fullmatch(_REPOSITORY, str(source)) or str(source).endswith(".safetensors"):
        raise ConfigError(
            f"there is no file or folder {source}, and it is not an OWNER/NAME of the "
            "Hugging Face hub"
        )
    return _download(str(source))


def _download(repo_id: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    reasons: Mapping[type[Exception], str] = {
        GatedRepoError: f"is gated; accept its license on https://huggingface.co/{repo_id} and run "
        "`hf auth login`",
        RepositoryNotFoundError: "is not on the Hugging Face hub; correct it, or run `hf auth "
        "login` if it is private",
        LocalEntryNotFoundError: "is not in the cache of the Hugging Face hub and cannot be "
        "fetched from there; copy its model.safetensors to this machine and give its path",
        EntryNotFoundError: f"contains no {MODEL_FILE}: it is not a model of fusseg",
        HFValidationError: "is not an OWNER/NAME that the Hugging Face hub allows",
    }
    try:
        return Path(hf_hub_download(repo_id, MODEL_FILE))
    except tuple(reasons) as error:
        reason = next(text for kind, text in reasons.items() if isinstance(error, kind))
        raise ConfigError(f"model {repo_id} {reason}") from error
    except OSError as error:
        raise ConfigError(
            f"model {repo_id} {reasons[LocalEntryNotFoundError]} ({first_line(error)})"
        ) from error


def _is_connection(error: Exception) -> bool:
    # httpx2 in newer versions, httpx or requests in older ones.
    library = type(error).__module__.split(".")[0]
    return isinstance(error, OSError) or library.startswith(("httpx", "httpcore", "requests"))
