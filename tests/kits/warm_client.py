"""Stands in for `python`: a fork of the warm process does what the command line says, or the real `python` does.

A fork answers `PYTHON -m worldlab ...`, the cell of a comparison and `PYTHON -c CODE`; all else starts PYTHON. Signals go
on to the fork, and its exit code, or the signal that ended it, comes back.
"""

import marshal
import os
import signal
import socket

MODULES = ("worldlab", "worldlab.study.compare.cell")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def read(arguments):
    """Return Python's own flags, "-m" or "-c", its value, and the arguments of the program; None: not for a fork."""
    at = 0
    while arguments[at : at + 1] in (["-P"], ["-X"]):
        at += 1 + (arguments[at] == "-X")
    kind, value = (*arguments[at : at + 2], None, None)[:2]
    if kind == "-c" or (kind == "-m" and value in MODULES):
        return arguments[:at], kind, value, arguments[at + 2 :]
    return None


def main(address, stand_in, python, arguments):
    """Do what `python ARGUMENTS` does. address: the socket of the warm process. stand_in: the path of this program."""
    asked = read(arguments)
    if asked is None:
        os.execv(python, [python, *arguments])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    for number in FORWARDED:
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    request = marshal.dumps((stand_in, python, asked, os.getcwd(), dict(os.environ)))
    socket.send_fds(connection, [len(request).to_bytes(8, "little")], [0, 1, 2])
    connection.sendall(request)
    answer = connection.recv(4)
    code = int.from_bytes(answer, "little", signed=True) if answer else 70
    if code < 0:
        if -code in FORWARDED:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
