"""Ports of this machine: they are bound before anything listens there, and errors name the process that uses one."""

import contextlib
import errno
import socket

import psutil

from optimize.errors import UserError
from serve.processes.process_reaper import MARK

_TRIES = 50
_LAST_PORT = 65535
_INIT = 1


def bound(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket bound to the port that does not listen yet; 0 lets the system choose. Errors name the `option` to change.

    Raises:
        UserError: The port is in use, or the address is not one of this machine.
    """
    if port > _LAST_PORT:
        raise UserError(f"port {port} was asked for, and the last is {_LAST_PORT}; choose a lower one with {option}")
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is in use{_holder(port)}; choose another with {option}, or stop what listens there"
            ) from None
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --host and {option}"
        ) from None
    return held


def free(host: str, port: int, count: int, option: str = "--port") -> int:
    """The first of `count` consecutive free ports: `port`, or one that the system picks if it is 0.

    Raises:
        UserError: A port is in use, or the address is not one of this machine.
    """
    for _ in range(_TRIES):
        first = port or _probe(host, 0, option)
        try:
            for index in range(count):
                _probe(host, first + index, option)
        except UserError:
            if port:
                raise
        else:
            return first
    raise UserError(f"no {count} free ports in a row were found on {host}; choose the first with {option}")


def _probe(host: str, port: int, option: str) -> int:
    with bound(host, port, option) as held:
        return int(held.getsockname()[1])


def _holder(port: int) -> str:
    """The process that listens on a port, if this user may see it, and whether a killed service left it behind."""
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port or connection.pid is None:
            continue
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(connection.pid)
            orphaned = process.ppid() == _INIT and MARK in process.environ()
            left = ", left behind by a service that was killed" if orphaned else ""
            return f" by {process.name()} (process {process.pid}{left})"
    return ""
