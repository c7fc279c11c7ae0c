"""Which network of this machine has an address: what gloo is told, so that it does not ask the host's own name.

Many Linux machines' own name leads to 127.0.1.1, where no other machine finds them. Linux only.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys

SIOCGIFADDR = 0x8915  # netdevice(7)
NAME_BYTES = 15


def interface_of(address: str) -> str | None:
    """None where no network has it as its first IPv4 address."""
    if sys.platform != "linux":
        return None
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if _address(name) == address), None)


def _address(name: str) -> str | None:
    request = struct.pack("256s", name.encode()[:NAME_BYTES])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, SIOCGIFADDR, request)
        except OSError:  # it has none
            return None
    return socket.inet_ntoa(answer[20:24])
