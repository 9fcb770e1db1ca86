"""Taking connections off a socket that other processes take them from, too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_FULL_S = 1.0


async def accept(
    listening: socket.socket, protocol: Callable[[], asyncio.Protocol], held: Callable[[], int]
) -> None:
    """Take connections for ever; the more are held already, the later.

    Who wakes first would take them all where they come one by one: a process leaves a new one to
    the others for as many ms as the number of those it holds has binary digits.

    Args: protocol: makes what speaks on one
          held: how many are open here
    """
    loop = asyncio.get_running_loop()
    listening.setblocking(False)
    while True:
        await _arrival(loop, listening)
        open_here = held()
        if open_here:
            await asyncio.sleep(open_here.bit_length() / 1000)
        try:
            for _ in range(1 + open_here // 4):
                connection, _ = listening.accept()
                connection.setblocking(False)
                await loop.connect_accepted_socket(protocol, connection)
        except (BlockingIOError, ConnectionAbortedError):
            continue  # another process, or nobody, has it
        except OSError:  # as many files are open as may be
            await asyncio.sleep(_FULL_S)


async def _arrival(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
    arrived = asyncio.Event()
    loop.add_reader(listening, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(listening)
