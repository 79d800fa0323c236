"""Notebooks into reports: each in a process and a kernel of its own, so that one that fails leaves the others alone."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm
from traitlets import default

from gemma_encoder.errors import InputError
from gemma_encoder.files import write_whole
from gemma_encoder.paths import NOTEBOOKS
from gemma_encoder.processes import end_with_parent
from gemma_encoder.reports.html import Failure, banner, check_html, page, to_html
from gemma_encoder.reports.notebooks import HUB_TOKEN, check, full_name
from gemma_encoder.reports.verdict import verdicts

CELL_TIMEOUT = 12 * 3600  # seconds; a sweep on a small machine may take hours
SOCKET_PATH_LIMIT = 90  # characters; the system allows 104 to 108 with the suffix
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LEAK = "the report was not written: the notebook holds what looks like a hub token"


@dataclass(frozen=True)
class Result:
    """One report: `status` is "ok", or "failed" with a line of `error`. A path is None where nothing was written."""

    name: str
    status: str
    html: Path | None
    ipynb: Path | None
    seconds: float
    error: str = ""
    verdicts: list[dict] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)


def run_notebook(
    name: str,
    out_dir: Path,
    given: Mapping[str, Any] | None = None,
    timeout: float = CELL_TIMEOUT,
    folder: Path = NOTEBOOKS,
) -> Result:
    """Execute notebook `name` with the parameters `given` and write NAME.ipynb and NAME.html to `out_dir`.

    `timeout` is in seconds per cell. Bad names and parameters raise InputError before a kernel starts; whatever goes
    wrong later is told by the result, and by the report itself at its top.
    """
    if timeout <= 0:
        raise InputError(f"a timeout is a positive number of seconds, received {timeout}")
    name = full_name(name, folder)
    given = check(name, given or {}, folder)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        draft = Path(scratch) / f"{name}.ipynb"
        failure = execute(folder / f"{name}.ipynb", draft, given, timeout)
        notebook = nbformat.read(draft if draft.exists() else folder / f"{name}.ipynb", as_version=4)
    html, ipynb = out_dir / f"{name}.html", out_dir / f"{name}.ipynb"
    text = nbformat.writes(_without_paths(notebook))
    if HUB_TOKEN.search(text):
        for stale in (html, ipynb):
            stale.unlink(missing_ok=True)
        return Result(name, "failed", None, None, time.monotonic() - started, LEAK, [], given)
    write_whole(ipynb, text)
    rendered, failure = _render(notebook, name, failure)
    write_whole(html, rendered)
    status, error = ("failed", failure.message) if failure else ("ok", "")
    return Result(name, status, html, ipynb, time.monotonic() - started, error, verdicts(notebook), given)


def run_all(
    names: Iterable[str],
    out_dir: Path,
    given_by_name: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int = 1,
    folder: Path = NOTEBOOKS,
) -> list[Result]:
    """Run many notebooks, `workers` at a time, and return their results in the order of `names`.

    Everything given is checked before the first one starts. The processor cores are shared out evenly among the
    kernels unless OMP_NUM_THREADS is set.
    """
    if workers < 1:
        raise InputError(f"reports need at least 1 worker, received {workers}")
    given = {full_name(name, folder): values for name, values in (given_by_name or {}).items()}
    names = list(dict.fromkeys(full_name(name, folder) for name in names))
    jobs = {name: (name, out_dir, check(name, given.get(name, {}), folder), CELL_TIMEOUT, folder) for name in names}
    results: dict[str, Result] = {}
    with _Lanes(workers) as lanes, ThreadPoolExecutor(workers) as pool, _progress(len(jobs)) as bar:
        futures = [pool.submit(lanes.run, job) for job in jobs.values()]
        try:
            for done in as_completed(futures):
                result = done.result()
                results[result.name] = result
                _report_progress(bar, len(results), result)
        finally:  # after an interrupt, what has not started must not start
            for future in futures:
                future.cancel()
    return [results[name] for name in names]


class _Lanes:
    """As many pools of one process each as reports run at a time.

    One pool of many processes would break as a whole when the system kills one of them; here the lane that lost its
    process gets a new one and no other report notices.
    """

    def __init__(self, count: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="reports-")  # ours to clear, also after a killed process
        self._threads = max(1, (os.cpu_count() or 1) // count)
        self._free: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        for _ in range(count):
            self._free.put(self._lane())

    def __enter__(self) -> _Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._free.empty():
            self._free.get().shutdown()
        self._scratch.cleanup()

    def run(self, job: tuple) -> Result:
        lane, started = self._free.get(), time.monotonic()
        try:
            return lane.submit(run_notebook, *job).result()
        except BrokenProcessPool:
            lane.shutdown()
            lane = self._lane()
            error = "the process that made this report ended without a word: killed, or unable to start"
        except OSError as problem:
            error = f"{type(problem).__name__}: {problem}"
        finally:
            self._free.put(lane)
        return Result(job[0], "failed", None, None, time.monotonic() - started, error, [], job[2])

    def _lane(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), _prepare_lane, (self._threads, self._scratch.name))


def _prepare_lane(threads: int, scratch: str) -> None:
    end_with_parent()
    tempfile.tempdir = scratch
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # the result tells what went wrong, once


def execute(source: Path, draft: Path, given: Mapping[str, Any], timeout: float) -> Failure | None:
    """Run notebook `source` into `draft`, `timeout` in seconds per cell. Whatever goes wrong becomes a Failure."""
    try:
        papermill.execute_notebook(
            source,
            draft,
            dict(given),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            execution_timeout=timeout,
            kernel_manager_class=_kernel_in(draft.parent),
        )
    except papermill.PapermillExecutionError as error:
        return _failure(f"{error.ename}: {error.evalue}", draft)
    except CellTimeoutError:
        return _failure(f"a cell ran longer than {timeout:g} seconds", draft)
    except DeadKernelError:
        return _failure("the kernel died, perhaps for want of memory", draft)
    except Exception as error:  # the report must say so whatever breaks while a kernel starts or answers
        return _failure(f"{type(error).__name__}: {error}", draft)
    return None


def _failure(message: str, draft: Path) -> Failure:
    """The failure in one line, and the last cell that started: Papermill marks a timed-out cell as completed."""
    cells = nbformat.read(draft, as_version=4).cells if draft.exists() else []
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    where = started[-1].id if started else None
    line = next((line for line in ANSI.sub("", message).splitlines() if line.strip()), "unknown error")
    return Failure(line, where)


def _render(notebook: NotebookNode, name: str, failure: Failure | None) -> tuple[str, Failure | None]:
    """The page, and the failure it announces: a page that breaks our own rules is itself a failure."""
    title = name[3:].replace("_", " ")
    try:
        text = to_html(notebook, title, failure)
        problems = check_html(text)
        if problems and failure is None:
            failure = Failure(f"the report breaks the rules for reports: {'; '.join(problems)}")
            text = to_html(notebook, title, failure)
    except Exception as error:  # a page that cannot be built must still say so
        failure = failure or Failure(f"the report could not be built: {error}")
        text = page(title, f"{banner(failure)}<h1>{title}</h1>")
    return text, failure


def _without_paths(notebook: NotebookNode) -> NotebookNode:
    """Drop where the files lay on this machine from Papermill's notes."""
    for key in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    return notebook


def _kernel_in(folder: Path) -> type[AsyncKernelManager]:
    """A manager of kernels that run this very interpreter, and talk through sockets in `folder` instead of ports."""

    class Kernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
            )

        def start_kernel(self, **options: Any) -> Any:
            # What a dying kernel says to the terminal is no use to anyone; what cells print goes into the notebook.
            return super().start_kernel(stderr=subprocess.DEVNULL, **options)

        @default("connection_file")
        def _connection_file(self) -> str:
            return str(folder / "kernel.json")

        @default("transport")
        def _transport(self) -> str:
            return "ipc" if os.name == "posix" and len(str(folder)) < SOCKET_PATH_LIMIT else "tcp"

    return Kernel


def _progress(total: int) -> tqdm:
    return tqdm(total=total, desc="reports", unit="report", file=sys.stderr, disable=not sys.stderr.isatty())


def _report_progress(bar: tqdm, done: int, result: Result) -> None:
    line = f"[{done}/{bar.total}] {result.name}: {result.status}, {result.seconds:.0f} s {result.error}".rstrip()
    if bar.disable:
        print(line, file=sys.stderr, flush=True)
    else:
        bar.write(line, file=sys.stderr)
        bar.update()
