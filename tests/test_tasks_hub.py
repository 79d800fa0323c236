"""The hub, played by a server on this machine: the real clients, the pinned revision, the network going away."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_encoder.tasks import get_task
from gemma_encoder.tasks.task import HubSource


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as serves one small dataset repository at one revision."""

    source: HubSource
    files: dict[str, bytes]

    def answer(self):
        path, repo, revision = self.path.partition("?")[0], self.source.repo, self.source.revision
        resolve, api = f"/datasets/{repo}/resolve/{revision}/", f"/api/datasets/{repo}/"
        headers = {"X-Repo-Commit": revision}
        code, body = 404, b""
        if path.startswith(resolve) and (name := path.removeprefix(resolve)) in self.files:
            code, body = 200, self.files[name]
            headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        elif path.startswith(resolve):
            headers["X-Error-Code"] = "EntryNotFound"
        elif path == f"{api}revision/{revision}":
            code, body = 200, json.dumps({"id": repo, "sha": revision, "siblings": []}).encode()
        elif path.startswith(tree := f"{api}tree/{revision}"):
            folder = Path(path.removeprefix(tree).strip("/"))
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
                if Path(name).parent == folder
            ]
            if folder == Path():
                entries.append({"type": "directory", "path": self.source.config, "oid": "0" * 40})
            code, body = 200, json.dumps(entries).encode()
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = answer  # noqa: N815

    def log_message(self, *args):
        """Quiet."""


def hub_files(config: str, splits: dict[str, dict[str, list]]) -> dict[str, bytes]:
    """A task as the hub keeps it: a card that names its splits, and one Parquet file a split."""
    card = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    files = {}
    for split, columns in splits.items():
        card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
        sink = pa.BufferOutputStream()
        rows = len(next(iter(columns.values())))
        pq.write_table(pa.table(columns | {"idx": list(range(rows))}), sink)
        files[f"{config}/{split}-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()
    return files | {"README.md": "\n".join([*card, "---", ""]).encode()}


def sst2(split: str, labels: list[int]) -> dict[str, list]:
    return {"sentence": [f"{split} text {at}" for at in range(len(labels))], "label": labels}


def copa(split: str, labels: list[int]) -> dict[str, list]:
    texts = {name: [f"{split} {name} {at}" for at in range(len(labels))] for name in ("premise", "choice1", "choice2")}
    return texts | {"question": ["cause"] * len(labels), "label": labels}


def msmarco(split: str, labels: list[list[int]]) -> dict[str, list]:
    passages = [
        {
            "is_selected": row,
            "passage_text": [f"{split} {at}.{place}" for place in range(len(row))],
            "url": [""] * len(row),
        }
        for at, row in enumerate(labels)
    ]
    return {"query": ["what"] * len(labels), "query_id": list(range(len(labels))), "passages": passages}


LOAD = """
import json, sys, time
from dataclasses import replace
from gemma_encoder import InputError
from gemma_encoder.tasks import get_task, load
for wanted in sys.argv[1:]:
    name, _, revision = wanted.partition("@")
    task = get_task(name)
    task = replace(task, hub=replace(task.hub, revision=revision or task.hub.revision))
    start = time.perf_counter()
    try:
        said = {split: rows[task.text_columns[-1]][:] for split, rows in load(task, "hub").items()}
    except InputError as error:
        said = str(error)
    print(json.dumps([said, time.perf_counter() - start]))
"""


def ask_hub(address: str, home: Path, *wanted: str) -> list:
    """Load tasks (`name` or `name@revision`) in a fresh process; for each, its last texts or the error, and seconds."""
    keep = {
        name: value for name, value in os.environ.items() if not name.lower().startswith(("hf_", "http", "all_proxy"))
    }
    env = keep | {"HF_ENDPOINT": address, "HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", LOAD, *wanted], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "examples" not in run.stderr  # no progress bar
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture
def hub():
    """What serves a task with a row for every label of its splits: gives the server's address, and how to stop it."""
    running = []

    def serve(name, columns, **labels):
        Hub.source = get_task(name).hub
        Hub.files = hub_files(Hub.source.config, {split: columns(split, of) for split, of in labels.items()})
        running.append(server := ThreadingHTTPServer(("127.0.0.1", 0), Hub))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", stop

    def stop():
        while running:
            server = running.pop()
            server.shutdown()
            server.server_close()

    yield serve
    stop()


def test_the_hub_is_read_at_the_pinned_revision_and_its_absence_is_said_at_once(hub, tmp_path):
    # the labels of the test split are none that the task allows
    address, stop = hub("sst2", sst2, train=[1, 0, 1], validation=[0, 1], test=[-1])
    texts = {"train": [f"train text {at}" for at in range(3)], "validation": ["validation text 0", "validation text 1"]}
    [[found, _]] = ask_hub(address, tmp_path, "sst2")
    assert found == texts
    stop()

    [[again, first], [missing, second], [other, third]] = ask_hub(address, tmp_path, "sst2", "cola", f"sst2@{'0' * 40}")
    assert again == texts  # from the earlier download
    assert missing.startswith("cannot load nyu-mll/glue (cola) from the hub: no network, and no earlier download")
    assert missing.endswith("; valid without the hub: --data-dir FOLDER, or the built-in tasks (--profile tiny)")
    assert f"revision {'0' * 40} wanted, {Hub.source.revision} found" in other
    assert max(first, second, third) < 10  # the clients' own retries take 23 s


def test_superglue_is_read_at_its_pinned_revision_and_in_the_columns_of_the_task(hub, tmp_path):
    address, stop = hub("copa", copa, train=[1, 0], validation=[0], test=[-1])
    choices = {
        split: [[f"{split} choice1 {at}", f"{split} choice2 {at}"] for at in range(rows)]
        for split, rows in (("train", 2), ("validation", 1))
    }
    [[found, _]] = ask_hub(address, tmp_path, "copa")
    assert found == choices
    stop()

    [[again, first], [missing, second]] = ask_hub(address, tmp_path, "copa", "boolq")
    assert again == choices  # from the earlier download
    assert missing.startswith("cannot load aps/super_glue (boolq) from the hub: no network, and no earlier download")
    assert max(first, second) < 10


def test_passages_that_the_hub_keeps_as_columns_become_lists_of_candidates(hub, tmp_path):
    address, _ = hub("msmarco", msmarco, train=[[0, 1, 0], [1, 0]], validation=[[1]], test=[[0]])
    [[found, _]] = ask_hub(address, tmp_path, "msmarco")
    assert found == {
        "train": [["train 0.0", "train 0.1", "train 0.2"], ["train 1.0", "train 1.1"]],
        "validation": [["validation 0.0"]],
    }
