"""A disk in memory, mounted through FUSE, that knows what a loss of power would leave of it.

Everything that is written is logged. A file's bytes are safe when the file is synced, a name when its folder is: what is
not safe may be there after a loss of power, or not, or in part. `Disk.after_power_loss` gives such states. Linux, as the
superuser; nothing but Python's standard library.
"""

import ctypes
import errno
import os
import random
import stat
import struct
import threading

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<6Q10I")
ENTRY = struct.Struct("<QQQQII")
MAX_WRITE = 128 << 10
MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2
EXCHANGE, NOREPLACE = 2, 1

(LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS,
 RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, CREATE, INTERRUPT, DESTROY, BATCH_FORGET,
 RENAME2) = (1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 25, 26, 27, 28, 29, 30, 35, 36, 38, 42, 45)
SILENT = {FORGET, BATCH_FORGET, INTERRUPT}


class Node:
    """A file, a folder or a link."""

    def __init__(self, mode, uid=0, gid=0, target=b""):
        self.mode, self.uid, self.gid, self.target = mode, uid, gid, target
        self.data, self.entries, self.names = bytearray(), {}, 1

    @property
    def is_folder(self):
        return stat.S_ISDIR(self.mode)


class Failure(Exception):
    """An error number of the operating system."""


class Disk:
    """The disk, mounted at `place` while it is entered."""

    def __init__(self, place, is_plain=False):
        #: Whether it has no owners, and one mode for all, as FAT.
        self.is_plain = is_plain
        self.place, self.nodes, self.next, self.log = place, {1: Node(stat.S_IFDIR | 0o755)}, 2, []
        self.lock = threading.Lock()

    def __enter__(self):
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = (b"taskbasis", os.fsencode(self.place), b"fuse", MS_NOSUID | MS_NODEV, options.encode())
        if libc.mount(*arguments) != 0:
            os.close(self.device)
            raise OSError(ctypes.get_errno(), "cannot mount a FUSE file system")
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        ctypes.CDLL(None).umount2(os.fsencode(self.place), MNT_DETACH)
        self.thread.join(10)
        os.close(self.device)

    def serve(self):
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + (64 << 10))
            except OSError as e:
                if e.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # Unmounted.
            _, opcode, unique, node, uid, gid, _, _, _ = IN_HEADER.unpack_from(request)
            body = request[IN_HEADER.size:]
            try:
                with self.lock:
                    answer, error = self.answer(opcode, node, body, uid, gid), 0
            except Failure as e:
                answer, error = b"", e.args[0]
            if opcode in SILENT:
                continue
            try:
                os.write(self.device, OUT_HEADER.pack(OUT_HEADER.size + len(answer), -error, unique) + answer)
            except OSError:
                pass  # Interrupted meanwhile: none waits for it.

    def answer(self, opcode, node, body, uid, gid):
        names = body.split(b"\0")
        if opcode == INIT:
            _, minor, readahead, _ = struct.unpack_from("<IIII", body)
            return struct.pack("<IIIIHHIIHHI7I", 7, min(minor, 31), readahead, 1 << 5, 12, 9, MAX_WRITE, 1, 0, 0, 0,
                               *[0] * 7)
        if opcode in SILENT | {RELEASE, RELEASEDIR, FLUSH, DESTROY}:
            return b""
        if opcode == LOOKUP:
            return self.entry(self.find(node, names[0]))
        if opcode == GETATTR:
            return struct.pack("<QII", 0, 0, 0) + self.attributes(node)
        if opcode == SETATTR:
            return self.set_attributes(node, body)
        if opcode == READLINK:
            return bytes(self.nodes[node].target)
        if opcode == SYMLINK:
            return self.entry(self.make(node, names[0], Node(stat.S_IFLNK | 0o777, uid, gid, names[1])))
        if opcode == MKDIR:
            mode, _ = struct.unpack_from("<II", body)
            name = body[8:].split(b"\0")[0]
            return self.entry(self.make(node, name, Node(stat.S_IFDIR | mode & 0o7777, uid, gid)))
        if opcode == CREATE:
            _, mode, _, _ = struct.unpack_from("<IIII", body)
            name = body[16:].split(b"\0")[0]
            made = self.make(node, name, Node(stat.S_IFREG | mode & 0o7777, uid, gid))
            return self.entry(made) + struct.pack("<QII", made, 0, 0)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QII", node, 0, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return bytes(self.nodes[node].data[offset:offset + size])
        if opcode == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self.do(("write", node, offset, body[40:40 + size]))
            return struct.pack("<II", size, 0)
        if opcode in (FSYNC, FSYNCDIR):
            self.log.append(("sync", node))
            return b""
        if opcode in (UNLINK, RMDIR):
            found = self.nodes[self.find(node, names[0])]
            if opcode == RMDIR and found.entries:
                raise Failure(errno.ENOTEMPTY)
            found.names -= 1
            self.do(("name", node, names[0], None))
            return b""
        if opcode in (RENAME, RENAME2):
            return self.rename(opcode, node, body)
        if opcode == LINK:
            (old,) = struct.unpack_from("<Q", body)
            self.nodes[old].names += 1
            self.do(("name", node, body[8:].split(b"\0")[0], old))
            return self.entry(old)
        if opcode == READDIR:
            return self.list(node, body)
        if opcode == STATFS:
            return struct.pack("<5Q4I6I", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0, *[0] * 6)
        raise Failure(errno.ENOSYS)

    def find(self, folder, name):
        try:
            return self.nodes[folder].entries[name]
        except KeyError:
            raise Failure(errno.ENOENT) from None

    def make(self, folder, name, node):
        if name in self.nodes[folder].entries:
            raise Failure(errno.EEXIST)
        if self.is_plain:
            node.mode = stat.S_IFMT(node.mode) | 0o755
        made, self.next = self.next, self.next + 1
        self.nodes[made] = node
        self.do(("name", folder, name, made))
        return made

    def rename(self, opcode, folder, body):
        (to,) = struct.unpack_from("<Q", body)
        flags = struct.unpack_from("<I", body, 8)[0] if opcode == RENAME2 else 0
        name, new = body[16 if opcode == RENAME2 else 8:].split(b"\0")[:2]
        moved, there = self.find(folder, name), self.nodes[to].entries.get(new)
        if flags & EXCHANGE:
            raise Failure(errno.EINVAL)
        if there is not None and flags & NOREPLACE:
            raise Failure(errno.EEXIST)
        if there is not None and self.nodes[there].entries:
            raise Failure(errno.ENOTEMPTY)
        if there is not None:
            self.nodes[there].names -= 1
        self.do(("move", folder, name, to, new, moved))
        return b""

    def attributes(self, node):
        found = self.nodes[node]
        size = len(found.target) if stat.S_ISLNK(found.mode) else len(found.data)
        return ATTRIBUTES.pack(node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, found.mode, max(found.names, 1),
                               found.uid, found.gid, 0, 4096, 0)

    def entry(self, node):
        return ENTRY.pack(node, 0, 0, 0, 0, 0) + self.attributes(node)

    def set_attributes(self, node, body):
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        mode, _, uid, gid = struct.unpack_from("<IIII", body, 68)
        found = self.nodes[node]
        if self.is_plain and (valid & 6 or valid & 1 and mode & 0o7777 != 0o755):
            raise Failure(errno.EPERM)
        if valid & 1:
            found.mode = stat.S_IFMT(found.mode) | mode & 0o7777
        if valid & 2:
            found.uid = uid
        if valid & 4:
            found.gid = gid
        if valid & 8:
            self.do(("cut", node, size))
        return struct.pack("<QII", 0, 0, 0) + self.attributes(node)

    def list(self, node, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        for i, (name, inner) in enumerate(sorted(self.nodes[node].entries.items())):
            line = struct.pack("<QQII", inner, i + 1, len(name), stat.S_IFMT(self.nodes[inner].mode) >> 12) + name
            line += bytes(-len(line) % 8)
            if i >= offset:
                if len(answer) + len(line) > size:
                    break
                answer += line
        return answer

    def do(self, step):
        self.log.append(step)
        apply(self.nodes, step)

    def without_syncs(self, since):
        """A disk on which the same was done from `since` on, without a sync."""
        disk = Disk(self.place)
        disk.nodes, disk.log = self.nodes, self.log[:since] + [step for step in self.log[since:] if step[0] != "sync"]
        return disk

    def after_power_loss(self, since, until, how, seed=0):
        """The root of the disk as it may be when the power fails after `until` steps of the log; all before `since` is
        safe. `how`: "forgets" what is not synced; "reorders": all names are there, and no bytes but those synced;
        "zeros": the same, with files as long as they were; "random"."""
        nodes = {number: Node(node.mode, target=node.target) for number, node in self.nodes.items()}
        for step in self.log[:since]:
            apply(nodes, step)
        rng = random.Random(seed)
        waiting = {}

        def settle(number, share):
            """Has the first part of what waits for a node happen."""
            steps = waiting.pop(number, [])
            for step in steps[:round(share * len(steps))]:
                apply(nodes, step)

        for step in self.log[since:until]:
            if step[0] == "sync":
                settle(step[1], 1)
                continue
            if step[0] == "move":
                # In two folders, two things that happen each in its time; in one, both at once.
                _, folder, name, to, new, moved = step
                if folder != to:
                    waiting.setdefault(folder, []).append(("name", folder, name, None))
                    waiting.setdefault(to, []).append(("name", to, new, moved))
                    continue
            waiting.setdefault(step[1], []).append(step)
        for number in list(waiting):
            is_folder = nodes[number].is_folder
            length = max((end(step) for step in waiting[number]), default=0) if how == "zeros" else 0
            share = {"forgets": 0, "reorders": is_folder, "zeros": is_folder}.get(how, rng.random())
            settle(number, share)
            if length > len(nodes[number].data) and not is_folder:
                nodes[number].data.extend(bytes(length - len(nodes[number].data)))
        return Tree(nodes, 1)


def end(step):
    """Where a step has a file end."""
    return step[2] + len(step[3]) if step[0] == "write" else step[2] if step[0] == "cut" else 0


def apply(nodes, step):
    """Does one step of a log."""
    if step[0] == "write":
        _, node, offset, data = step
        file = nodes[node].data
        file.extend(bytes(max(0, offset - len(file))))
        file[offset:offset + len(data)] = data
    elif step[0] == "cut":
        _, node, size = step
        file = nodes[node].data
        del file[size:]
        file.extend(bytes(size - len(file)))
    elif step[0] == "name":
        _, folder, name, node = step
        if node is None:
            nodes[folder].entries.pop(name, None)
        else:
            nodes[folder].entries[name] = node
    elif step[0] == "move":
        _, folder, name, to, new, node = step
        nodes[folder].entries.pop(name, None)
        nodes[to].entries[new] = node


class Tree:
    """Files and folders of one state."""

    def __init__(self, nodes, node):
        self.nodes, self.node = nodes, nodes[node]

    def content(self):
        """The bytes of a file, where a link leads, or a folder's content by name."""
        if stat.S_ISLNK(self.node.mode):
            return os.fsdecode(bytes(self.node.target))
        if not self.node.is_folder:
            return bytes(self.node.data)
        return {os.fsdecode(name): Tree(self.nodes, node).content() for name, node in self.node.entries.items()}

    def write(self, folder):
        """Makes a copy of it at `folder`, on another disk."""
        os.makedirs(folder, exist_ok=True)
        for name, number in self.node.entries.items():
            path, node = os.path.join(os.fsencode(folder), name), self.nodes[number]
            if node.is_folder:
                Tree(self.nodes, number).write(path)
            elif stat.S_ISLNK(node.mode):
                os.symlink(node.target, path)
            else:
                with open(path, "wb") as file:
                    file.write(node.data)
                os.chmod(path, node.mode & 0o7777)
