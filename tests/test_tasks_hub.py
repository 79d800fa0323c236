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


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as serves one small dataset repository at one revision."""

    revision = get_task("sst2").hub.revision
    files: dict[str, bytes]

    def answer(self):
        path = self.path.partition("?")[0]
        resolve, api = f"/datasets/nyu-mll/glue/resolve/{self.revision}/", "/api/datasets/nyu-mll/glue/"
        headers = {"X-Repo-Commit": self.revision}
        code, body = 404, b""
        if path.startswith(resolve) and (name := path.removeprefix(resolve)) in self.files:
            code, body = 200, self.files[name]
            headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        elif path.startswith(resolve):
            headers["X-Error-Code"] = "EntryNotFound"
        elif path == f"{api}revision/{self.revision}":
            code, body = 200, json.dumps({"id": "nyu-mll/glue", "sha": self.revision, "siblings": []}).encode()
        elif path.startswith(tree := f"{api}tree/{self.revision}"):
            folder = Path(path.removeprefix(tree).strip("/"))
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
                if Path(name).parent == folder
            ]
            if folder == Path():
                entries.append({"type": "directory", "path": "sst2", "oid": "0" * 40})
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


def hub_files() -> dict[str, bytes]:
    """SST-2 as the hub keeps it; the test split has labels that no task allows."""
    splits = {"train": [1, 0, 1], "validation": [0, 1], "test": [-1]}
    card = ["---", "configs:", "- config_name: sst2", "  data_files:"]
    files = {}
    for split, labels in splits.items():
        card += [f"  - split: {split}", f"    path: sst2/{split}-*"]
        texts = [f"{split} text {at}" for at in range(len(labels))]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"sentence": texts, "label": labels, "idx": list(range(len(labels)))}), sink)
        files[f"sst2/{split}-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()
    return files | {"README.md": "\n".join([*card, "---", ""]).encode()}


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
        said = {split: rows["sentence"][:] for split, rows in load(task, "hub").items()}
    except InputError as error:
        said = str(error)
    print(json.dumps([said, time.perf_counter() - start]))
"""


def ask_hub(address: str, home: Path, *wanted: str) -> list:
    """Load tasks (`name` or `name@revision`) in a fresh process; for each, its texts or the error, and the seconds."""
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
    """Address of a running server, and how to stop it."""
    Hub.files = hub_files()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop():
        server.shutdown()
        server.server_close()

    yield f"http://127.0.0.1:{server.server_port}", stop
    stop()


def test_the_hub_is_read_at_the_pinned_revision_and_its_absence_is_said_at_once(hub, tmp_path):
    address, stop = hub
    texts = {"train": [f"train text {at}" for at in range(3)], "validation": ["validation text 0", "validation text 1"]}
    [[found, _]] = ask_hub(address, tmp_path, "sst2")
    assert found == texts
    stop()

    [[again, first], [missing, second], [other, third]] = ask_hub(address, tmp_path, "sst2", "cola", f"sst2@{'0' * 40}")
    assert again == texts  # from the earlier download
    assert missing.startswith("cannot load nyu-mll/glue (cola) from the hub: no network, and no earlier download")
    assert missing.endswith("; valid without the hub: --data-dir FOLDER, or the built-in tasks (--profile tiny)")
    assert f"revision {'0' * 40} wanted, {Hub.revision} found" in other
    assert max(first, second, third) < 10  # the clients' own retries take 23 s
