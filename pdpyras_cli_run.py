"""Run a command, and keep the end of what it writes to stderr.

The command does not notice it: stdin and stdout are ours, stderr is passed on
as it comes (and is a terminal if ours is one), signals are passed on, and the
exit status is that of a shell. ``pdpyras run`` does this before it sends
anything to PagerDuty.

It needs the standard library alone, and a Unix.
"""

import contextlib
import errno
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

try:
    import fcntl
    import termios
except ImportError:  # Not a Unix.
    fcntl = termios = None  # type: ignore[assignment]

__all__ = ["Outcome", "last_lines", "raising_signals", "watch"]


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Seconds from SIGTERM to SIGKILL.
KILL_AFTER = 10.0

# Exit statuses, as of env(1) and timeout(1).
TIMED_OUT, NOT_EXECUTABLE, NOT_FOUND, SIGNALLED = 124, 126, 127, 128

# Bytes of stderr that are kept, and those at their beginning that are not
# shown if they begin within a line: half a secret must not be.
MAX_TAIL = 64 * 1024
MAX_HALF_SECRET = 1024

# Seconds after Ctrl-C within which the end of the command is due to it.
INTERRUPT_TIME = 10.0

# Seconds for which others, who have the command's stderr still, may add to
# what is kept; and those for which ours may take nothing after the command.
DRAIN_TIME = 0.2
STALL_TIME = 1.0

# Bytes that are read at a time, and more chunks than a pipe holds.
CHUNK_SIZE = 64 * 1024
MAX_CHUNKS = 64

# Milliseconds: poll() takes no more than 24 days.
MAX_POLL = 3600 * 1000

# Signals that are passed on. What the terminal sends reaches the command
# anyway, which is in our process group.
_PASSED_ON = [
    getattr(signal, name)
    for name in (
        *("SIGALRM", "SIGHUP", "SIGINT", "SIGIO", "SIGPROF", "SIGPWR"),
        *("SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGVTALRM"),
    )
    if hasattr(signal, name)
]
_PASSED_ON += range(
    getattr(signal, "SIGRTMIN", 1), getattr(signal, "SIGRTMAX", 0) + 1
)
_OF_TERMINAL = ("SIGINT", "SIGQUIT")

# Said after the timeout if the command is another user's, as by sudo.
_NOT_ENDED = (
    b"pdpyras: Its time is over, but we may not end the command, "
    b"which goes on.\n"
)

# Of Linux: what signalfd(2) tells of a signal (its number, an errno, and a
# code, which is above 0 if the kernel has sent it), and bytes of a sigset_t.
_SENT = struct.Struct("=Iii116x")
_SET_SIZE = 128


class Outcome(NamedTuple):
    """How a command ended.

    :ivar status: as in a shell: 128 plus the number of the signal that
        ended it; 124 after the timeout; 126 or 127 if it cannot be run
    :ivar signal: name of the signal that ended it, or ""
    :ivar is_timeout: it was ended because its time was over
    :ivar is_interrupt: it was ended with Ctrl-C or Ctrl-\\ at the terminal
    :ivar seconds: that it took
    :ivar tail: the end of its stderr
    """

    status: int
    signal: str
    is_timeout: bool
    is_interrupt: bool
    seconds: float
    tail: bytes


# ---------------------------------------------------------------------------
# The end of stderr
# ---------------------------------------------------------------------------

# Colours, movements of the cursor, titles of windows.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def last_lines(tail: bytes, count: int, hide: Callable[[str], str]) -> str:
    """The last lines of an output, as a terminal would show them.

    :param hide: makes secrets in a text unreadable
    """
    # A secret may have bytes that are not UTF-8, too.
    text = hide(tail.decode("utf-8", "surrogateescape"))
    lines = _ESCAPE.sub("", text).rstrip().split("\n")[-count:]
    # Of a line that is drawn again and again, as a progress bar is, the last
    # state.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    text = hide("\n".join(_CONTROL.sub("", line) for line in lines))
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Tail:
    """The last bytes of an output."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._is_cut = False

    def add(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * MAX_TAIL:
            del self._kept[:-MAX_TAIL]
            self._is_cut = True

    def content(self) -> bytes:
        if not self._is_cut:
            return bytes(self._kept)
        end_of_line = self._kept.find(b"\n") + 1
        return bytes(self._kept[end_of_line or MAX_HALF_SECRET :])


# ---------------------------------------------------------------------------
# The command's stderr
# ---------------------------------------------------------------------------


def _open_channel() -> Tuple[Optional[int], Optional[int]]:
    """Where the command's stderr is read, and what it has for stderr.

    If ours is a terminal, that is a terminal, too: colours and progress bars
    stay as they are. If ours is closed, there is nothing to pass on.
    """
    try:
        os.fstat(2)
    except OSError:
        return None, None
    if termios is not None and os.isatty(2):
        try:
            reader, writer = os.openpty()
        except OSError:
            return os.pipe()  # No more terminals are to be had.
        with contextlib.suppress(OSError, termios.error):
            attributes = termios.tcgetattr(2)
            # Line ends are the business of the real one.
            attributes[1] &= ~termios.OPOST
            termios.tcsetattr(writer, termios.TCSANOW, attributes)
            _copy_window_size(writer)
        return reader, writer
    return os.pipe()


def _copy_window_size(terminal: int) -> None:
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(2, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def _close(descriptor: Optional[int]) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _read(reader: int) -> Optional[bytes]:
    """What has come; b"" at the end; None: nothing yet."""
    try:
        return os.read(reader, CHUNK_SIZE)
    except BlockingIOError:
        return None
    except OSError:  # So a terminal ends.
        return b""


def _write(data: Union[bytes, bytearray]) -> int:
    """Write some of it to our stderr, which may have to be waited for.

    :returns: how many bytes are done with. What a full disk does not take is
        lost, and no reason to end the command.
    :raises BrokenPipeError: nobody reads it
    """
    try:
        # More than that can block, even if there is space.
        return os.write(2, data[: select.PIPE_BUF])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        raise
    except OSError:
        return len(data)


def _is_ready(seconds: float) -> bool:
    """Does our stderr take something, at the latest after a time?"""
    return bool(select.select([], [2], [], seconds)[1])


def _leave_relay(reader: Optional[int], data: bytes) -> None:
    """Let a process go on passing on what others still write.

    The command has started something that outlives it, and that would be
    ended by the loss of its stderr. Or our stderr takes nothing at present.
    """
    if os.fork():
        return
    try:
        signal.set_wakeup_fd(-1)  # Its pipe is closed with the rest.
        _close_all_but(reader)
        if reader is not None:
            os.set_blocking(reader, True)
        while data or reader is not None:
            while data:
                select.select([], [2], [])
                data = data[_write(data) :]
            data = b"" if reader is None else _read(reader) or b""
            reader = reader if data else None
    finally:
        os._exit(0)


def _close_all_but(reader: Optional[int]) -> None:
    """Keep stderr alone; a lock or a pipe would be held by others."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/fd"):
            if int(name) not in (2, reader):
                with contextlib.suppress(OSError):
                    os.close(int(name))


# ---------------------------------------------------------------------------
# Signals
# ---------------------------------------------------------------------------


def _note(number: int, frame: Any) -> None:
    """Handle a signal by waking whoever reads the wakeup descriptor."""


@contextlib.contextmanager
def _noted_signals() -> Iterator[int]:
    """A descriptor from which the numbers of signals are read.

    Signals that are ignored stay so, for the command as well.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = {}
    for number in (*_PASSED_ON, signal.SIGCHLD, signal.SIGWINCH):
        is_ignored = signal.getsignal(number) == signal.SIG_IGN
        if number == signal.SIGCHLD or not is_ignored:
            before[number] = signal.signal(number, _note)
    wakeup = signal.set_wakeup_fd(writer)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def raising_signals() -> Iterator[None]:
    """Let what would end this process be a KeyboardInterrupt meanwhile."""
    before = {}
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _sent_signals() -> Iterator[Tuple[Optional[int], Set[int]]]:
    """A descriptor from which signals are read with who has sent them.

    And those of the terminal, which are read there, and not noted, while they
    are blocked. None, and no signals: it is not Linux, or there is no
    terminal, so that nobody need know.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    numbers = {getattr(signal, name) for name in _OF_TERMINAL}
    numbers = {n for n in numbers - blocked if signal.getsignal(n) == _note}
    descriptor = None
    if numbers and _is_in_foreground() is not None:
        descriptor = _open_signalfd(numbers)
    try:
        yield descriptor, set() if descriptor is None else numbers
    finally:
        _close(descriptor)


@contextlib.contextmanager
def _blocked(numbers: Set[int]) -> Iterator[None]:
    # Whoever has started us may have blocked it, and the mask is inherited.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _open_signalfd(numbers: Set[int]) -> Optional[int]:
    """signalfd(2), which Python lacks; None: the system lacks it, too."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        library = ctypes.CDLL(None)
        mask = ctypes.create_string_buffer(_SET_SIZE)
        library.sigemptyset(mask)
        for number in numbers:
            library.sigaddset(mask, int(number))
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = int(library.signalfd(-1, mask, flags))
    except Exception:  # Not every Python has ctypes, not every libc is one.
        return None
    return None if descriptor < 0 else descriptor


def _is_in_foreground() -> Optional[bool]:
    """Do we have the terminal? None: there is none."""
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return None
    finally:
        os.close(terminal)


def _is_from_terminal(number: int, code: Optional[int]) -> bool:
    """Has the terminal sent it to the command as well?

    :param code: says who has sent it; None: that is not known, and a signal
        of kill(1) is taken for one of the terminal whose foreground we are
    """
    if signal.Signals(number).name not in _OF_TERMINAL:
        return False
    return bool(_is_in_foreground()) if code is None else code > 0


# ---------------------------------------------------------------------------
# Watching
# ---------------------------------------------------------------------------


def watch(
    command: Sequence[bytes], timeout: Optional[float] = None
) -> Outcome:
    """Run a command to its end.

    :param command: program and arguments
    :param timeout: seconds after which it gets SIGTERM, and ten seconds later
        SIGKILL; the processes that it has started itself get neither. What
        may not be signalled goes on, and is not waited for any longer.
    """
    begun = time.monotonic()
    reader, writer = _open_channel()
    with _noted_signals() as signals, _sent_signals() as (sent, numbers):
        try:
            process = _start(command, writer)
        except (OSError, ValueError) as error:
            _close(reader)
            return _not_run(command, error, begun)
        finally:
            _close(writer)
        watched = _Watched(process, reader, signals, sent)
        try:
            with _blocked(numbers):  # Only now: the command would inherit it.
                watched.run(timeout)
        finally:
            watched.close()
    return watched.outcome(begun)


def _start(
    command: Sequence[bytes], stderr: Optional[int]
) -> "subprocess.Popen[bytes]":
    """Start a command.

    A script without a ``#!`` line is run by sh, as shells, env(1) and
    timeout(1) do; a program for another machine is not.
    """
    settings: Dict[str, Any] = {
        "stderr": stderr,
        "close_fds": False,
        "env": _environment_as_given(),
    }
    try:
        return subprocess.Popen(command, **settings)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        failure = error
    import shutil

    program = os.fsdecode(command[0])
    path = os.fsencode(shutil.which(program) or program)
    with open(path, "rb") as file:
        if b"\0" in file.read(512):  # So shells tell it.
            raise failure
    return subprocess.Popen([b"/bin/sh", path, *command[1:]], **settings)


def _environment_as_given() -> Dict[bytes, bytes]:
    """Our environment, without what Python has added (PEP 538)."""
    environment = dict(os.environb)
    try:
        with open("/proc/self/environ", "rb") as file:
            given = file.read().split(b"\0")
    except OSError:
        return environment
    if not any(entry.startswith(b"LC_CTYPE=") for entry in given):
        environment.pop(b"LC_CTYPE", None)
    return environment


def _not_run(
    command: Sequence[bytes], error: Exception, begun: float
) -> Outcome:
    """A command that cannot be run, with the status of a shell."""
    reason = getattr(error, "strerror", None) or str(error)
    tail = b"%s: %s\n" % (command[0], reason.encode("utf-8"))
    with contextlib.suppress(OSError):
        os.write(2, b"pdpyras: " + tail)
    is_missing = isinstance(error, FileNotFoundError)
    status = NOT_FOUND if is_missing else NOT_EXECUTABLE
    seconds = time.monotonic() - begun
    return Outcome(status, "", False, False, seconds, tail)


class _Watched:
    """A command that runs."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        reader: Optional[int],
        signals: int,
        sent_signals: Optional[int],
    ) -> None:
        self._process, self._signals = process, signals
        self._sent_signals = sent_signals
        self._reader = reader
        self._tail, self._unwritten = _Tail(), bytearray()
        self._is_timeout = False
        self._interrupted_at: Optional[float] = None
        if reader is not None:
            os.set_blocking(reader, False)

    def run(self, timeout: Optional[float]) -> None:
        """Pass on stderr and signals until the command has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._process.poll() is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                if self._is_timeout and not self._send(signal.SIGKILL):
                    if self._reader is not None:  # Else it may be closed.
                        self._unwritten += _NOT_ENDED
                    break
                end = self._end_it()
                continue
            self._wait(left)
        self._take_signals()  # What the terminal sent may have ended it.
        for _ in range(MAX_CHUNKS):  # What is left in the pipe.
            if not self._read():
                break
        while self._unwritten and _is_ready(STALL_TIME):
            self._pass_on()
        end = time.monotonic() + DRAIN_TIME
        while self._reader is not None and time.monotonic() < end:
            self._wait(max(0, end - time.monotonic()))

    def _end_it(self) -> Optional[float]:
        """The time is over; returns when to look again."""
        if self._is_timeout:
            return None
        self._is_timeout = True
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)  # It may be stopped.
        return time.monotonic() + KILL_AFTER

    def _send(self, number: int) -> bool:
        """Send it a signal; False: it is somebody else's, as by sudo."""
        try:
            self._process.send_signal(number)
        except PermissionError:
            return False
        return True

    def _wait(self, seconds: Optional[float]) -> None:
        """Wait for the next event, and handle it."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if self._sent_signals is not None:
            poll.register(self._sent_signals, select.POLLIN)
        if self._unwritten:
            poll.register(2, select.POLLOUT)
        elif self._reader is not None:
            poll.register(self._reader, select.POLLIN)
        longest = MAX_POLL if seconds is None else seconds * 1000 + 1
        poll.poll(min(longest, MAX_POLL))
        self._take_signals()
        if not self._unwritten:
            self._read()
        self._pass_on()

    def _take_signals(self) -> None:
        """Handle those that have come."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._signals, 512):
                self._handle(number)
        if self._sent_signals is None:
            return
        with contextlib.suppress(BlockingIOError):
            sent = os.read(self._sent_signals, 8 * _SENT.size)
            for number, _, code in _SENT.iter_unpack(sent):
                self._handle(number, code)

    def _read(self) -> bool:
        """Take what the command has written; was there anything?"""
        data = None if self._reader is None else _read(self._reader)
        if data:
            self._tail.add(data)
            self._unwritten += data
        elif data == b"":
            self._close_reader()
        return bool(data)

    def _pass_on(self) -> None:
        """Write what our stderr takes without waiting."""
        try:
            while self._unwritten and _is_ready(0):
                del self._unwritten[: _write(self._unwritten)]
        except BrokenPipeError:
            # The command learns it as if its stderr were ours.
            self._unwritten.clear()
            self._close_reader()

    def _handle(self, number: int, code: Optional[int] = None) -> None:
        if number == signal.SIGWINCH:
            if self._reader is not None and os.isatty(self._reader):
                _copy_window_size(self._reader)
        elif number == signal.SIGCHLD:
            pass  # Popen.poll() follows.
        elif _is_from_terminal(number, code):
            self._interrupted_at = time.monotonic()
        else:
            self._send(number)

    def _close_reader(self) -> None:
        _close(self._reader)
        self._reader = None

    def close(self) -> None:
        if self._reader is not None or self._unwritten:
            _leave_relay(self._reader, bytes(self._unwritten))
        self._close_reader()

    def outcome(self, begun: float) -> Outcome:
        """How it ended."""
        # It has none yet if it cannot be ended.
        status, name = self._process.returncode or 0, ""
        if status < 0:
            name = _signal_name(-status)
            status = SIGNALLED - status
        is_interrupt = bool(status) and self._is_due_to_interrupt(status)
        if self._is_timeout:
            status = TIMED_OUT
        return Outcome(
            status,
            name,
            self._is_timeout,
            is_interrupt and not self._is_timeout,
            time.monotonic() - begun,
            self._tail.content(),
        )

    def _is_due_to_interrupt(self, status: int) -> bool:
        """Did it end so because of the terminal's signal?

        It may have handled that, and have failed hours later.
        """
        if self._interrupted_at is None:
            return False
        numbers = [getattr(signal, name) for name in _OF_TERMINAL]
        if status in [SIGNALLED + number for number in numbers]:
            return True
        return time.monotonic() - self._interrupted_at < INTERRUPT_TIME


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
