"""The Hugging Face Hub: a repository as a local folder, and its errors as one clear line.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and the cache are huggingface_hub's own. No message holds a token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ufo_tune.errors import ModelError
from ufo_tune.models.ufo import CONFIG_NAME

MODEL_FILES = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    CONFIG_NAME,
    "recipe.yaml",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""Names of what a merged model is made of; nothing else is downloaded, and little else goes up."""
_NOT_HERE = "no such folder here, and "
_REPO = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")


def is_repo(name: str) -> bool:
    """Whether a name could be a repository: ``ORG/NAME``."""
    return _REPO.fullmatch(name) is not None


def refuse(name: str, *, right: str, single: bool = False) -> None:
    """Refuse what is no folder and could be no repository, before anybody is asked.

    Args:
        name: as it was given; a ``Path`` forgets the dot of ``./base``, which says that a folder is meant.
        right: what to give instead.
        single: whether a repository's name may go without ``ORG/``, as some old ones of other people do.
    Raises:
        ModelError: a file, or a path that is not there and is no ``ORG/NAME``.
    """
    if os.path.isdir(name):
        return
    if os.path.exists(name):
        raise ModelError(f"{name}: no such folder (got a file); {right}")
    if not is_repo(f"org/{name}" if single and "/" not in name else name):
        raise ModelError(f"{name}: no such folder (got nothing there); {right}")


def unreadable(name: str, error: Exception) -> ModelError:
    """What to say where weights, a config or a tokenizer could not be loaded, from here or from the Hub."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if os.path.exists(name):
        return ModelError(f"{name}: cannot be loaded ({line}); the download or checkpoint is incomplete")
    return ModelError(f"{name}: {_NOT_HERE}not loaded from the Hub ({line}); check the name, or the network")


def is_unknown(error: BaseException | None) -> bool:
    """Whether, below an error, the Hub said that there is no such repository."""
    while error is not None:
        if isinstance(error, RepositoryNotFoundError):
            return True
        error = error.__cause__
    return False


def snapshot(repo: str, revision: str | None = None) -> Path:
    """A published model as a folder of the cache; only what is not there yet is downloaded.

    Args:
        repo: ``ORG/NAME``.
        revision: branch, tag or commit; default: the newest.
    Raises:
        ModelError: no such repository, revision or right, the Hub cannot be reached, or no model of ufo-tune.
    """
    with clear(repo, _NOT_HERE):
        try:  # first, so that no gigabytes come for nothing
            hf_hub_download(repo, CONFIG_NAME, revision=revision)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            raise ModelError(
                f"{repo}: is on the Hub, but not a model of ufo-tune (got no {CONFIG_NAME}); make a base of it with "
                f"`ufo-tune prepare {repo} --out base`"
            ) from error
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(MODEL_FILES)))


def is_published(name: str) -> bool:
    """Whether a name is a repository with a model of ufo-tune; no, too, where that cannot be found out."""
    try:
        return is_repo(name) and bool(hf_hub_download(name, CONFIG_NAME))
    except (HTTPError, EntryNotFoundError, OfflineModeIsEnabled):
        return False  # whoever loads the weights next will be told why


@contextmanager
def clear(repo: str, here: str = "") -> Iterator[None]:
    """Whatever huggingface_hub raises inside becomes a ``ModelError`` that says what to do.

    Args:
        repo: that it is about.
        here: words before what the Hub does not have: a folder's name that is mistyped looks like a repository's.
    """
    try:
        yield
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, LocalTokenNotFoundError, OfflineModeIsEnabled) as e:
        wrong, right = _explained(e, here)
        raise ModelError(f"{repo}: {wrong}; {right}") from e
    except (OSError, RuntimeError) as e:  # huggingface_hub wraps what happens in its threads in a RuntimeError
        cause = e.__cause__
        wrong, right = _explained(cause if isinstance(cause, (HTTPError, OSError)) else e, here)
        raise ModelError(f"{repo}: {wrong}; {right}") from e


def _explained(error: Exception, here: str) -> tuple[str, str]:
    """What is wrong, and what would be right."""
    if isinstance(error, GatedRepoError):
        return "its owner asks who downloads it (got GatedRepo)", "accept its terms on its page, then `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "no such revision on the Hub (got RevisionNotFound)", "give a branch, tag or commit that is there"
    if isinstance(error, LocalTokenNotFoundError):
        return "needs somebody who is logged in (got no token)", "`hf auth login`, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return "is no name of a repository (got characters that the Hub refuses)", "give ORG/NAME"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return "the Hub does not know the token (got 401)", "`hf auth login` with a valid one, or set HF_TOKEN"
    if status == 403:
        return "the token has no right to do this (got 403)", "log in with a token that may write to this namespace"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{here}no such model on the Hub, or a private one (got {status})",
            "check the name; for a private one `hf auth login`",
        )
    if status:
        return f"the Hub refused (got {status})", "give the same command again, later if it is the Hub's fault (5xx)"
    return (
        f"{here}the Hub cannot be reached, or broke off (got {_cause(error)})",
        "check the network and give the same command again; what has arrived is not sent again",
    )


def _cause(error: BaseException) -> str:
    """The class of what lies at the bottom: ``ConnectError`` says more than ``LocalEntryNotFoundError``."""
    while (inner := error.__cause__) is not None and isinstance(inner, (HTTPError, OSError)):
        error = inner
    return type(error).__name__
