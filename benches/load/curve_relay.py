"""A relay of libzmq with CURVE, for what the task queue could be: argv is the folder for the connection files.

The libzmq that comes with Rust's crates has no CURVE, and pyzmq's has. The proxy is libzmq's own: no Python is run for a
message. It gives tasks to engines in turn, without a high water mark.
"""

import json
import os
import sys

import zmq

folder = os.path.join(sys.argv[1], "security")
public, secret = zmq.curve_keypair()
context = zmq.Context()


def bind(kind):
    socket = context.socket(kind)
    socket.linger = socket.sndhwm = socket.rcvhwm = 0
    socket.curve_server = True
    socket.curve_secretkey = secret
    return socket, socket.bind_to_random_port("tcp://127.0.0.1")


clients, task_in = bind(zmq.ROUTER)
engines, task_out = bind(zmq.DEALER)
none = 1
common = {
    "key": "", "curve_serverkey": public.decode(), "location": "localhost", "pack": "json", "unpack": "json",
    "signature_scheme": "hmac-sha256", "ssh": "", "interface": "tcp://127.0.0.1", "registration": none,
    "control": none, "mux": none, "iopub": none,
}  # fmt: skip
os.makedirs(folder)
for name, own in {
    "engine": {"task": task_out, "hb_ping": none, "hb_pong": none, "broadcast": []},
    "client": {"task": task_in, "task_scheme": "relay", "notification": none},
}.items():
    path = os.path.join(folder, f"ipcontroller-{name}.json")
    with open(f"{path}.new", "w") as file:
        json.dump({**common, **own}, file)
    os.rename(f"{path}.new", path)
zmq.proxy(clients, engines)
