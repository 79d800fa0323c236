"""Where the kit keeps its things, and whether a folder can take something."""

import tempfile
from pathlib import Path

from gemma_encoder.errors import InputError

PACKAGE = Path(__file__).resolve().parent
SHIPPED = PACKAGE / "shipped"  # data and notebooks in a wheel; a checkout has them beside the package
ROOT = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"
REPORTS = (Path.cwd() if ROOT == SHIPPED else ROOT) / "reports"  # nobody looks for reports among installed packages


def check_writable(folder: Path) -> None:
    """Make `folder` if it is not there; an InputError says why nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"folder {str(folder)!r} cannot be written: {error.strerror}; valid: one that can") from None
