"""Where the kit keeps its things, whatever the working directory is, and whether a folder can take something."""

import tempfile
from pathlib import Path

from gemma_encoder.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"
REPORTS = ROOT / "reports"


def check_writable(folder: Path) -> None:
    """Make `folder` if it is not there; an InputError says why nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"folder {str(folder)!r} cannot be written: {error.strerror}; valid: one that can") from None
