"""``publish``: a merged model, its card and a few pictures to a repository of the Hugging Face Hub.

    done = publish(Path("merged"), "org/name", results=[Path("scores")], dry_run=True)
    done.files, done.card

Only names that a model is known to have go up. A folder with pickles or with what looks like a secret is refused as a
whole: whoever put it there should know. Broken off, the same call goes on with what has not arrived yet.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ufo_tune.engine import licence, model_card, remote, scored
from ufo_tune.errors import ConfigError, EvalError, ModelError
from ufo_tune.models.ufo import read_settings

CARD = "README.md"
ALLOWED = (*remote.MODEL_FILES, *licence.TEXTS, CARD)
"""Names that go up."""
PICKLES = ("*.pt", "*.pth", "*.bin", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.dill")
SECRETS = (
    *(".env*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", ".netrc", ".git-credentials", ".pypirc"),
    *("*credential*", "*secret*", "*password*", "token", "*.token", "token.txt", "hf_token*"),
)
_KEYS = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bAKIA[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_READ = 1 << 20  # bytes of a text that are searched for keys; tokenizers are longer, and nobody writes into them
_AUDIT = "audit.json"
_STALE = ["model*.safetensors", "model.safetensors.index.json", "images/*"]  # an earlier version's, where not replaced


@dataclass(frozen=True, slots=True)
class Published:
    """What went up, or would.

    Attributes:
        url: of the repository; empty for a dry run.
        files: (name in the repository, bytes), in order.
        left_out: files of the folder that have no place in a repository.
        card: text of the README.md.
        existed: the repository was there already, and has a new commit now.
    """

    url: str
    files: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]
    card: str
    existed: bool = False


def publish(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    results: Sequence[Path] = (),
    pictures: int = 4,
) -> Published:
    """Upload a merged model.

    Args:
        folder: that ``merge`` wrote. A README.md in it goes up as it is; without one, a card is written.
        repo: ``ORG/NAME``; made where it does not exist.
        private: nobody else may see it; refused where the repository is public already.
        dry_run: say what would go up, and ask nobody.
        results: folders that ``ufo-tune eval`` wrote; default: ``folder/eval`` where there is one. An ``audit.json``
            beside them is the output of ``ufo-tune data audit --json``.
        pictures: most sample pictures in the card. They are pictures of the evaluation data.
    Raises:
        ConfigError: not such a folder, one of an untrained base, not a name of a repository, or fewer than 0 pictures.
        EvalError: scores of other weights.
        ModelError: a file that must not go up, or the Hub refuses or cannot be reached.
    """
    if not remote.is_repo(repo):
        raise ConfigError(f"publish: not a repository's name (got {repo!r}); give ORG/NAME")
    if pictures < 0:
        raise ConfigError(f"publish: --pictures must not be negative (got {pictures}); 0 shows none")
    settings = _merged(folder)
    results = list(results) or ([folder / "eval"] if (folder / "eval").is_dir() else [])
    own, left_out = _sorted(folder, {path.resolve() for path in results})
    found = scored.read(results, settings.get("trained", {}).get("weights") or {})
    images = dict(_chosen(found, pictures))
    card = _card(folder, repo, settings, found, results, {name: said for name, (_, said) in images.items()}, list(own))
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for name, file in {**own, **{name: file for name, (file, _) in images.items()}}.items():
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).symlink_to(file.resolve())
        if CARD not in own:
            (staged / CARD).write_text(card, encoding="utf-8")
        names = sorted(p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file())
        files = tuple((name, (staged / name).stat().st_size) for name in names)
        if dry_run:
            return Published("", files, left_out, card)
        url, existed = _upload(staged, repo, private)
    return Published(url, files, left_out, card, existed)


def _merged(folder: Path) -> dict[str, Any]:
    """The settings of a model that is ready to go; everything else is told the way."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give one that `ufo-tune merge` wrote")
    if (folder / "last").exists() or (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{folder}: a run, which nobody can load without its base (got an adapter or checkpoints); first "
            f"`ufo-tune merge {folder} --out {folder}-merged`, then publish that"
        )
    settings = read_settings(folder)
    if not settings.get("templates"):
        raise ConfigError(
            f"{folder}: was taught nothing yet (got a prepared base); first `ufo-tune train` on it, then merge the run"
        )
    if not any(folder.glob("model*.safetensors")):
        raise ConfigError(f"{folder}: has no weights (got no model*.safetensors); merge again")
    return settings


def _sorted(folder: Path, apart: set[Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files that go up by name, and the names of those that do not.

    Args:
        folder: to look through, hidden and nested files too.
        apart: folders with evaluations, of which only scores and a few pictures are taken.
    Raises:
        ModelError: pickles, or what looks like a secret.
    """
    own: dict[str, Path] = {}
    left_out: list[str] = []
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if any(parent.resolve() in apart for parent in file.parents) or name.startswith(".cache/huggingface/"):
            continue
        if _is(file.name, PICKLES):
            raise ModelError(
                f"{file}: a pickle can run code where it is loaded (got {file.suffix}); remove it, "
                "weights are safetensors"
            )
        if _is(file.name.lower(), SECRETS) or _has_key(file):
            raise ModelError(f"{file}: looks like a secret, and nothing was uploaded; remove it from the folder")
        if "/" not in name and _is(name, ALLOWED):
            own[name] = file
        else:
            left_out.append(name)
    return own, tuple(left_out)


def _is(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _has_key(file: Path) -> bool:
    """Whether a text holds a token or private key; the text itself is never told."""
    if file.suffix == ".safetensors" or file.stat().st_size > _READ:
        return False
    return _KEYS.search(file.read_text(encoding="utf-8", errors="replace")) is not None


def _chosen(found: Sequence[scored.Scored], most: int) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Name in the repository, and (file, caption): the first best, worst and unreadable pictures, in turn."""
    kinds = ("best", "worst", "unreadable")
    queues = [[(file, said) for kind, file, said in s.pictures() if kind == wanted] for wanted in kinds for s in found]
    longest = max(map(len, queues), default=0)
    in_turn = [queue[i] for i in range(longest) for queue in queues if i < len(queue)]
    for file, said in in_turn[:most]:
        protocol, split = file.parts[-4], file.parts[-3]
        yield f"images/{protocol}_{split}_{file.name}", (file, said)


def _card(
    folder: Path,
    repo: str,
    settings: dict[str, Any],
    found: Sequence[scored.Scored],
    results: Sequence[Path],
    pictures: dict[str, str],
    names: Sequence[str],
) -> str:
    """The folder's own README.md, or a written one."""
    if CARD in names:
        return (folder / CARD).read_text(encoding="utf-8")
    texts = [name for name in names if _is(name, licence.TEXTS)]
    return model_card.write(model_card.Facts(repo, settings, found, _overlaps(results), pictures, texts))


def _overlaps(results: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of the audits that lie beside the scores."""
    rows: list[dict[str, Any]] = []
    for file in (path / _AUDIT for path in results):
        if file.exists():
            try:
                rows += json.loads(file.read_text(encoding="utf-8"))["overlaps"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise EvalError(f"{file}: not an audit ({error}); write it by `ufo-tune data audit --json`") from error
    return rows


def _upload(staged: Path, repo: str, private: bool) -> tuple[str, bool]:
    """Make the repository where it is missing and bring it to what is staged; (its address, whether it was there)."""
    api = HfApi(library_name="ufo-tune")
    with remote.clear(repo):
        api.whoami()  # an unknown token is told before anything is made
        existed = api.repo_exists(repo)
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and existed and not api.model_info(repo).private:
            raise ConfigError(f"{repo}: is there already and public (got --private); make it private on its page first")
        api.upload_folder(
            repo_id=repo, folder_path=staged, commit_message="Publish with ufo-tune", delete_patterns=list(_STALE)
        )
    return str(url), existed
