"""Records to a memory-mapped Arrow table, made once: large annotation files cost their reading a single time.

    found = table("lvis", read, features=..., sources=[annotations], code=[__file__])
    found.rows[7], found.meta["classes"]

A table lies in ``$UFO_TUNE_CACHE`` (default ``~/.cache/ufo-tune``) under a key of the *content* of its sources, of the
options it was made with and of the code that reads them: a changed file or a changed reader makes another table, never
a stale one. The content of a large file is hashed once; afterwards its path, size and time of change stand for it.
Processes on one machine share the table's pages, and pickling sends its path: workers hold no copy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo_tune.datasets import _readers as readers
from ufo_tune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

Made = tuple[dict[str, Any], Iterable[dict[str, Any]]]
"""What a reader gives: ``meta`` (JSON values such as class names), and the rows."""
_BATCH = 256  # rows written at once: bounds the memory of making a table


@dataclass(frozen=True, slots=True)
class Table:
    """Rows on disk, and what holds for all of them."""

    rows: Dataset
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.rows[index]
        return row

    def column(self, name: str) -> Any:
        """One column as a ``pyarrow.ChunkedArray``, without copying it."""
        return self.rows.data.column(name)


def table(
    name: str,
    make: Callable[[], Made],
    *,
    features: Callable[[], Features],
    sources: Sequence[Path],
    code: Sequence[str | Path],
    options: Mapping[str, Any] | None = None,
) -> Table:
    """The table that ``make`` gives, from the cache where it has been made before.

    Args:
        name: of the dataset; the beginning of the file's name.
        make: reads the sources. Runs in one process at a time.
        features: the columns (``datasets.Features``), as a function because importing that library takes a second.
        sources: files (their content counts), or folders (names, sizes and times of all files below count).
        code: files of code whose change makes another table; this one is always among them.
        options: JSON values that the rows depend on.

    Raises:
        ConfigError: the cache cannot be written.
        DataError: a source is missing, or ``make`` finds fault with it; nothing is left in the cache.
    """
    from datasets import Dataset
    from filelock import FileLock

    folder = _writable(cache_folder() / "tables")
    parts = [digest(Path(p)) for p in (*sources, *code, __file__)]
    key = hashlib.sha256(json.dumps([name, parts, options or {}], sort_keys=True).encode()).hexdigest()[:20]
    rows, meta = folder / f"{name}-{key}.arrow", folder / f"{name}-{key}.json"
    with FileLock(folder / f"{name}-{key}.lock"):
        if not meta.is_file():  # written last: its presence says that the rows are whole
            _write(rows, meta, make, features(), str(next(iter(sources), name)))
    return Table(Dataset.from_file(str(rows)), json.loads(meta.read_text(encoding="utf-8")))


def digest(path: Path) -> str:
    """What stands for a file's content, or for a folder's list of files.

    Raises:
        DataError: there is no such file or folder.
    """
    if path.is_dir():
        stats = ((p, _stat(p)) for p in _files(path))
        listed = sorted((str(p.relative_to(path)), stat.st_size, stat.st_mtime_ns) for p, stat in stats)
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    stat = readers.existing(path, "annotation file").stat()
    known = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_folder() / "digests" / known
    if memo.is_file():
        return memo.read_text()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    memo.parent.mkdir(parents=True, exist_ok=True)
    part = memo.with_name(f"{known}.{os.getpid()}")
    part.write_text(found)
    part.replace(memo)
    return found


def cache_folder() -> Path:
    """``$UFO_TUNE_CACHE``, else ``~/.cache/ufo-tune``."""
    return Path(os.environ.get("UFO_TUNE_CACHE") or Path.home() / ".cache" / "ufo-tune")


def _files(folder: Path) -> Iterable[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield Path(root, name)


def _writable(folder: Path) -> Path:
    """The folder, made where it is not there.

    Raises:
        ConfigError: it cannot be made, or files in it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        what = "" if os.access(folder, os.W_OK) else "no right to write there"
    except OSError as error:
        what = str(error)
    if what:
        raise ConfigError(f"UFO_TUNE_CACHE: {folder}: cannot be written (got {what}); set it to a folder of yours")
    return folder


def _stat(file: Path) -> os.stat_result:
    """Of a link that leads nowhere its own: whoever reads it says that the file is missing."""
    try:
        return file.stat()
    except FileNotFoundError:
        return file.lstat()


def _write(rows: Path, meta: Path, make: Callable[[], Made], features: Features, where: str) -> None:
    from datasets.arrow_writer import ArrowWriter
    from tqdm import tqdm

    part = rows.with_suffix(".part")
    found, records = make()
    try:
        with ArrowWriter(path=str(part), features=features, writer_batch_size=_BATCH) as writer:
            count = 0
            for record in tqdm(records, desc=f"{rows.stem}: reading once", unit="row", disable=None, leave=False):
                writer.write(record)
                count += 1
            if not count:
                raise DataError(f"{where}: has no rows (got an empty list); check the annotation file and its split")
            writer.finalize()
    except UnicodeEncodeError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{where}: a text holds half a letter (got {error.object!a:.80}); write both halves") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(rows)
    done = meta.with_suffix(".json.part")
    done.write_text(json.dumps(found), encoding="utf-8")
    done.replace(meta)
