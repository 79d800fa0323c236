"""Files and folders that are either whole or absent."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a kill at any moment, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` when the block ends well, and vanishes when it does not.

    FileExistsError where something else has become `target` meanwhile: the scratch folder, which it names, then stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    scratch.mkdir()  # for whom the umask says, where tempfile's would be for its owner alone
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    try:
        scratch.rename(target)
    except OSError as error:
        said = f"{str(target)!r} cannot be written: {error.strerror}; what belongs there is in {str(scratch)!r}"
        raise FileExistsError(said) from error
