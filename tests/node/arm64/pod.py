#!/usr/bin/env python3
"""Runs a pod with a user namespace over CRI, and prints facts about it as lines NAME=VALUE.

usage: pod.py NAME IMAGE [ANNOTATION=VALUE...]

The messages are written by their numbers in proto/cri-v1.proto: Debian has no program for CRI.
"""

import sys

import grpc

FIRST_ID, IDS = 131072, 65536


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(fields):
    """A message by its fields' numbers; a list is a repeated field, a dict in it a message."""
    out = b""
    for field, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                out += varint(field << 3) + varint(value)
                continue
            data = value.encode() if isinstance(value, str) else message(value)
            out += varint(field << 3 | 2) + varint(len(data)) + data
    return out


def read(data):
    """The fields of a message: numbers, and bytes of what has a length."""
    at, fields = 0, {}

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            at, value = at + value, data[at : at + value]
        fields[key >> 3] = value
    return fields


name, image = sys.argv[1:3]
annotations = [dict(zip((1, 2), one.split("=", 1))) for one in sys.argv[3:]]
channel = grpc.insecure_channel("unix:///run/containerd/containerd.sock")


def call(method, fields):
    # The program is emulated.
    return read(channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")(message(fields), timeout=300))


# A network and a user namespace of the pod, which maps the same IDs of users and groups.
namespaces = {1: 0, 5: {1: 0, 2: {1: FIRST_ID, 3: IDS}, 3: {1: FIRST_ID, 3: IDS}}}
pod = {
    1: {1: name, 2: f"uid-{name}", 3: "default"},
    3: "/var/log",
    7: annotations,
    8: {1: "kubepods.slice", 2: {1: namespaces}},
}
print(f"runtime={read(channel.unary_unary('/runtime.v1.RuntimeService/Version')(b'', timeout=300))[3].decode()}")
sandbox = call("RunPodSandbox", {1: pod})[1].decode()
container = call(
    "CreateContainer",
    {1: sandbox, 2: {1: {1: name}, 2: {1: image}, 11: f"{name}.log", 15: {2: {3: namespaces}}}, 3: pod},
)[1].decode()
call("StartContainer", {1: container})
print(f"container={container}")
answer = call("ExecSync", {1: container, 2: ["cat", "/proc/1/cgroup", "/proc/1/uid_map"], 3: 60})
print(f"inside={answer.get(1, b'').decode().split()}")
print(f"host={FIRST_ID}")
