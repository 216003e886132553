#!/usr/bin/env python3
"""Asks an echo server over TCP and UDP through libdmm.so, which any language can load.

    LD_LIBRARY_PATH=/usr/local/lib ./echo_client.py 10.1.0.2 7 1000000
"""

import ctypes
import os
import socket
import struct
import sys

dmm = ctypes.CDLL("libdmm.so.0", use_errno=True)
dmm.dmm_error_text.restype = ctypes.c_char_p
for name in ("dmm_send", "dmm_recv"):
    getattr(dmm, name).restype = ctypes.c_ssize_t
    getattr(dmm, name).argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]


def check(result):
    """Turns the failure of a call into an exception."""
    if result < 0:
        number = ctypes.get_errno()
        words = dmm.dmm_error_text().decode()
        raise OSError(number, f"{os.strerror(number)} ({words})")
    return result


def sockaddr(address, port):
    """A struct sockaddr_in or sockaddr_in6."""
    if ":" in address:
        raw = socket.inet_pton(socket.AF_INET6, address)
        return socket.AF_INET6, struct.pack("=HHI16sI", socket.AF_INET6, socket.htons(port), 0, raw, 0)
    raw = socket.inet_pton(socket.AF_INET, address)
    return socket.AF_INET, struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), raw)


def connect(kind, address, port):
    """A connected socket with a timeout."""
    family, raw = sockaddr(address, port)
    handle = check(dmm.dmm_socket(family, kind, 0))
    timeout = struct.pack("@ll", 30, 0)
    check(dmm.dmm_setsockopt(handle, socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout, len(timeout)))
    check(dmm.dmm_connect(handle, raw, len(raw)))
    return handle


def ask(kind, address, port, message):
    """Sends a message and returns as many bytes as come back."""
    handle = connect(kind, address, port)
    buffer = ctypes.create_string_buffer(65536)
    sent = received = 0
    answer = bytearray()
    while received < len(message):
        if sent < len(message):
            part = message[sent : sent + 32768]
            sent += check(dmm.dmm_send(handle, part, len(part), 0))
        count = check(dmm.dmm_recv(handle, buffer, len(buffer), 0))
        if count == 0:
            raise EOFError("the server ended the stream")
        answer += buffer.raw[:count]
        received += count
    check(dmm.dmm_close(handle))
    return bytes(answer)


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    message = os.urandom(count)
    if ask(socket.SOCK_STREAM, address, port, message) != message:
        sys.exit("the stream differs")
    datagram = message[:1000]
    if ask(socket.SOCK_DGRAM, address, port, datagram) != datagram:
        sys.exit("the datagram differs")
    print(f"{count} bytes and a datagram came back")


if __name__ == "__main__":
    main()
