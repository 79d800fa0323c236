"""Is the hub there? Asked once, quickly: the hub's own clients retry for 20 s before they say no."""

from __future__ import annotations

import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

TIMEOUT_S = 3.0


@cache
def reachable() -> bool:
    """True when the hub can be asked: not switched off by HF_HUB_OFFLINE, and its address answers (or a proxy will)."""
    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    if getproxies().get(address.scheme):
        return True
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True
