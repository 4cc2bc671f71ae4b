"""The socket that a server listens on; nothing here imports what serves, so that a port in use is told at once."""

import socket

from vicuna.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A socket that is the program's from now on; who connects before something serves there waits.

    Raises:
        UserError: the address can not be listened on.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port} can not be listened on; is the port taken? ({error})") from error
