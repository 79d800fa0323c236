"""The socket guard holds: no test reaches beyond this machine, here or in a child process."""

import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.request import urlopen

import nbformat
import pytest
from huggingface_hub import constants
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ELSEWHERE = "192.0.2.1"  # reserved for documentation, nobody has it


@pytest.mark.parametrize(
    "touch",
    [
        lambda: socket.create_connection((ELSEWHERE, 80), timeout=1),
        lambda: socket.socket().connect((ELSEWHERE, 80)),
        lambda: socket.socket().connect_ex((ELSEWHERE, 80)),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80, 0, 0)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", (ELSEWHERE, 53)),
        lambda: socket.getaddrinfo("huggingface.co", 443),
        lambda: socket.gethostbyname("huggingface.co"),
        lambda: urlopen("https://huggingface.co"),
    ],
)
def test_nothing_in_this_process_leaves_the_machine(touch):
    with pytest.raises(RuntimeError, match="not this machine"):
        touch()


def test_a_child_process_is_guarded_too():
    code = "import socket; socket.create_connection(('huggingface.co', 443), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "NetworkTouchedError: a test asked for 'huggingface.co'" in done.stderr


def test_a_notebook_kernel_is_guarded_too():
    cell = nbformat.v4.new_code_cell("import socket; socket.getaddrinfo('huggingface.co', 443)")
    with pytest.raises(CellExecutionError, match="NetworkTouchedError"):
        NotebookClient(nbformat.v4.new_notebook(cells=[cell])).execute()


def test_a_server_on_this_machine_can_be_reached():
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hello)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert urlopen(f"http://localhost:{server.server_port}").read() == b"hello"
    finally:
        server.shutdown()
        server.server_close()


def test_the_hub_is_switched_off_and_the_caches_are_empty_folders_of_the_tests():
    assert constants.HF_HUB_OFFLINE
    assert "gemma-encoder-tests-" in constants.HF_HOME
    assert os.environ["HF_DATASETS_CACHE"].startswith(os.environ["HF_HOME"])
