"""No test may leave this machine: connections and name look-ups beyond the loopback raise `NetworkTouchedError`.

`tests/conftest.py` runs this file in the test process and puts its folder on PYTHONPATH, so that Python also runs it
at the start of every child process and notebook kernel.
"""

import ipaddress
import socket


class NetworkTouchedError(RuntimeError):
    """Not an OSError: code that takes a missing network in its stride must not hide that it asked for one."""


def _check(host):
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", socket.gethostname()):
        return
    try:
        local = ipaddress.ip_address(host.partition("%")[0]).is_loopback or host in ("0.0.0.0", "::")
    except ValueError:
        local = False
    if not local:
        raise NetworkTouchedError(f"a test asked for {host!r}, which is not this machine")


def _guard_method(name):
    original = getattr(socket.socket, name)

    def guarded(self, *args):
        address = args[-1]  # connect(address), sendto(data, address) and sendto(data, flags, address)
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return original(self, *args)

    setattr(socket.socket, name, guarded)


def _guard_lookup(name):
    original = getattr(socket, name)

    def guarded(host, *args, **kwargs):
        _check(host)
        return original(host, *args, **kwargs)

    setattr(socket, name, guarded)


if not hasattr(socket, "guarded_by_tests"):
    socket.guarded_by_tests = True
    for method in ("connect", "connect_ex", "sendto"):
        _guard_method(method)
    for lookup in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        _guard_lookup(lookup)
