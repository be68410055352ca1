"""Where the HTTP server listens: taken before anything else is touched, so that a taken address changes nothing."""

import contextlib
import errno
import ipaddress
import os
import socket
import stat

from llmspell_kernel.errors import RefusedError


def take(host: str, port: int, path: str) -> tuple[socket.socket, socket.socket]:
    """A TCP socket, at any free port for 0, and a unix socket; RefusedError names what cannot be had."""
    with contextlib.ExitStack() as undo:
        tcp = undo.enter_context(_tcp_socket(host, port))
        unix = _unix_socket(path)
        undo.pop_all()
    return tcp, unix


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise RefusedError(f"the HTTP address must be an IP address or localhost, not {host!r}") from None
    if not address.is_loopback:
        raise RefusedError(
            f"listening on {host} is refused: beyond loopback it takes TLS, which there is not yet; use 127.0.0.1"
        )
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise RefusedError(
                f"port {port} on {host} is taken by another program; choose another with --port, or 0 for any"
            ) from None
        raise RefusedError(f"port {port} on {host} cannot be listened on: {error.strerror}") from None
    listener.setblocking(False)
    return listener


def _unix_socket(path: str) -> socket.socket:
    """A socket at `path` for its owner only; one of a controller that is dead is replaced."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        listener.close()
        raise RefusedError(f"the socket {path} cannot be made: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RefusedError(f"the socket {path} cannot be made: {error.strerror}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise RefusedError(f"{path} is in the way and is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as error:
            raise RefusedError(f"the socket {path} is in the way and does not answer: {error}") from None
    raise RefusedError(f"another controller listens on {path}; stop it with 'llmspell fleet down'")
