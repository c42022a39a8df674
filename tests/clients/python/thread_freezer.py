"""Stops one thread of a process, as a lock that never comes free or a page that never arrives would, and lets it go on."""

import ctypes
import errno
import os
from contextlib import contextmanager
from pathlib import Path

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
#: Threads are waited for like children of another kind.
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, thread: int):
    if libc.ptrace(request, thread, None, None) == -1:
        number = ctypes.get_errno()
        remedy = ": this system lets nobody stop a thread of a child (kernel.yama.ptrace_scope, seccomp)" if number == errno.EPERM else ""
        raise OSError(number, os.strerror(number) + remedy)


def threads(pid: int, name: str) -> list[int]:
    """The threads of this name."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            if (task / "comm").read_text().strip() == name:
                found.append(int(task.name))
        except OSError:
            pass  # it has ended since
    return found


class FrozenThread:
    """A thread that stands still. All calls are to come from the thread that made it."""

    def __init__(self, thread: int):
        self.thread, self.is_frozen = thread, True
        ptrace(SEIZE, thread)
        ptrace(INTERRUPT, thread)
        os.waitpid(thread, WALL)

    def thaw(self):
        if self.is_frozen:
            self.is_frozen = False
            ptrace(DETACH, self.thread)

    def wait_end(self):
        """Its process was killed: it is no zombie before this thread was waited for."""
        self.is_frozen = False
        while not os.WIFSIGNALED(os.waitpid(self.thread, WALL)[1]):
            pass


@contextmanager
def frozen(pid: int, name: str):
    """The first thread of this name, standing still: those that it starts are called like it."""
    thread = min(threads(pid, name))
    stopped = FrozenThread(thread)
    try:
        yield stopped
    finally:
        if Path(f"/proc/{pid}/task/{thread}").exists():
            stopped.thaw()
