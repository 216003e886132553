# A station of a virtual LAN on a packet socket: asks a stack for its address, pings it, and sends a datagram,
# each with a tag; then the same ping with another tag and without one. Prints what came back with which tag.
#
#   vlan.py INTERFACE OUR_ADDRESS STACK_ADDRESS VLAN PORT
import socket
import struct
import sys
import time

interface, own, stack, vlan, port = sys.argv[1:3] + sys.argv[3:4] + [int(n) for n in sys.argv[4:]]
own_mac = bytes([2, 0, 0, 0, 0x80, 0x99])
own, stack = socket.inet_aton(own), socket.inet_aton(stack)

link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((interface, 0))
link.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the kernel takes tags out of frames.
link.settimeout(0.2)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send(to, tag, ethertype, payload):
    tags = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    link.send(to + own_mac + tags + struct.pack("!H", ethertype) + payload)


def receive():
    """The tag, type and payload of the next frame that is for us."""
    frame, beside, flags, _ = link.recvmsg(2048, 256)
    tag = None
    for level, kind, data in beside:
        status, _, _, _, _, tci, _ = struct.unpack("=IIIHHHH", data[:20])
        if (level, kind) == (263, 8) and status & 0x10:
            tag = tci
    ethertype, payload = frame[12:14], frame[14:]
    if ethertype == b"\x81\x00":
        tag, ethertype, payload = struct.unpack("!H", payload[:2])[0], payload[2:4], payload[4:]
    return (frame[:6] == own_mac), tag, ethertype, payload


def until(wanted, ask, patience=30):
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        ask()
        again = time.monotonic() + 0.5
        while time.monotonic() < again:
            try:
                ours, tag, ethertype, payload = receive()
            except TimeoutError:
                break
            if ours and wanted(ethertype, payload):
                return tag, payload
    return None


def ip(protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0, own, stack)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def echo(number):
    body = struct.pack("!BBHHH", 8, 0, 0, 7, number) + b"behind a tag"
    return ip(1, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


def question():
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own_mac + own + bytes(6) + stack
    send(b"\xff" * 6, vlan, 0x0806, arp)


tag, reply = until(lambda kind, p: kind == b"\x08\x06" and p[6:8] == b"\0\2" and p[14:18] == stack, question)
mac = reply[8:14]
print("arp", tag)
is_echo = lambda number: lambda kind, p: kind == b"\x08\0" and p[9] == 1 and p[20] == 0 and p[26:28] == struct.pack("!H", number)
# With a priority, which means nothing.
tag, reply = until(is_echo(1), lambda: send(mac, 5 << 13 | vlan, 0x0800, echo(1)))
print("echo", tag, reply[28:40].decode())
is_datagram = lambda kind, p: kind == b"\x08\0" and p[9] == 17
datagram = struct.pack("!HHHH", 9, port, 16, 0) + b"datagram"
tag, reply = until(is_datagram, lambda: send(mac, vlan, 0x0800, ip(17, datagram)))
print("datagram", tag, reply[28:].decode())
for other in (vlan + 1, None):
    print("other", until(is_echo(2), lambda: send(mac, other, 0x0800, echo(2)), 1))
