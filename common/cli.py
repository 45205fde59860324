"""What all commands share: standard streams, errors in one line, signals, locks on folders, the use of all cores."""
import concurrent.futures.process
import contextlib
import fcntl
import logging
import math
import multiprocessing
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import traceback
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator

from tqdm import tqdm

WORKER_BYTES = 4e8  # of a process that prepares sentences; a recording of 20 minutes takes twice as much


class UserError(Exception):
    """What the user can put right; the message names the file or flag and the cure. `run_main` prints it in one line;
    every other exception keeps its traceback."""


class Stopped(BaseException):
    """A signal stopped the command after everything was saved. Like KeyboardInterrupt, this is no Exception."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number


def mend_streams() -> None:
    """Replace standard streams that are closed or that a full disk refuses by the null device, and escape characters
    that the terminal's encoding lacks: what cannot be printed must not keep a command from its work. If a number below
    3 stayed free, a library could get it for a pipe of its own, and wait for ever for an answer to its messages."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if hasattr(stream, "reconfigure"):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")
            stream.write, stream.flush = (or_discard(method, number) for method in (stream.write, stream.flush))


def or_discard(method: Callable, number: int) -> Callable:
    """`method` of the standard stream `number`, which writes to the null device from the first failure on. Only a
    closed pipe of standard output raises BrokenPipeError."""
    def call(*arguments):
        try:
            return method(*arguments)
        except BrokenPipeError:
            if number == 1:  # nobody reads any more, as after `| head`: the command ends
                raise
            discard_output(number)  # who reads no warnings may want the files
        except OSError as error:
            failures.append(error)
            discard_output(number)
    return call


failures: list[OSError] = []  # that kept standard streams from being written
mend_streams()  # when this is imported, because libraries that are imported later already print


def new_parser(description: str) -> ArgumentParser:
    """A parser with --verbose, which all commands have; devices.py also looks for it in sys.argv."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's messages, and tracebacks of errors")
    return parser


def positive(text: str) -> int:
    """Parse a whole number from 1 on; raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def add_channel(parser: ArgumentParser) -> None:
    """Add --channel for the scripts that read recordings."""
    parser.add_argument("--channel", type=positive, metavar="N", help="use this channel of several, counted from 1")


def run_main(name: str, function: Callable[[], int | None]) -> int:
    """Call `function` and return its exit code; 1 after a UserError, or an OSError with the name of a file, whose
    message is printed in one line; or 128 plus the number of a signal."""
    try:
        code = function() or 0
        sys.stdout.flush()  # if Python flushes it at exit, a failure has no message and an exit code of its own
        if failures:
            print(f"{name}: standard output cannot be written ({failures[0].strerror}); all files are written",
                  file=sys.stderr)
            code = 1
        return code
    except Stopped as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        # TensorFlow prints many lines when a compilation is interrupted
        logging.getLogger("tensorflow").setLevel(logging.CRITICAL)
        print(f"\n{name}: stopped; what was finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # for instance after `| head`
        discard_output()
        print(f"{name}: standard output was closed; what was finished is kept", file=sys.stderr, flush=True)
        return 1
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise
        if "--verbose" in sys.argv:
            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def discard_output(number: int = 1) -> None:
    """Write the standard stream `number` to the null device from now on, or else Python fails again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


@contextlib.contextmanager
def recording_signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM in the yielded list and go on; the second of a kind ends the process at once. A signal
    that is ignored stays ignored, as SIGINT is in a command that a script runs in the background."""
    received: list[int] = []

    def record(number, frame):
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # standard error may be closed: the same Ctrl-C stops a `| tee`
            # Not print(): the signal may have interrupted another print()
            os.write(2, b"\nstopping after this step; Ctrl-C stops at once, back to the last checkpoint\n")
    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)
              if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(folder: pathlib.Path, flag: str) -> Iterator[None]:
    """Keep other commands from writing into `folder`, which the user named by `flag`, within this context. Raises
    UserError if another one writes there, or if the folder is read-only. A process that is killed holds no lock."""
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another {flag}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder} is in use by {file.read() or 'another process'}: choose another {flag}, or "
                            "wait until that ends") from None
        except OSError:  # a network drive without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def cores() -> int:
    """How many cores this process may use; a container or a batch system may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory(root: str = "/") -> float:
    """Bytes that are free, or that a container or batch system allows if that is less; infinite if unknown. `root` is
    where proc/ and sys/ lie."""
    root, found = pathlib.Path(root), [math.inf]
    with contextlib.suppress(OSError):  # not on a Mac
        free = re.search(r"MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text())
        found += [1024 * int(free[1])] if free else []
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            for place, file in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):  # of cgroups 2 and 1
                group = root / "sys/fs/cgroup" / place / line.split(":", 2)[2].strip("/")
                for folder in (group, *group.parents):  # a group has no more than those around it
                    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                        found.append(int((folder / file).read_text()))
    return min(found)


@contextlib.contextmanager
def workers() -> Iterator[Callable]:
    """Start a process for each core, or as many as the memory holds; yields a function (function, items, title) that
    maps over the items in order, with a progress bar. Raises UserError if a process is lost."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core has a process, so libraries must not start more threads
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    at_once = max(1, min(cores(), int(memory() / WORKER_BYTES) - 1))  # this process needs as much as one of them
    with concurrent.futures.ProcessPoolExecutor(at_once, context, end_with_parent) as pool:
        def run(function: Callable, items: list, title: str) -> list:
            # The processes inherit that Ctrl-C is blocked: only their parent handles it
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                results = pool.map(function, *zip(*items))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            return list(tqdm(results, title, len(items), disable=None))
        try:
            yield run
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError("a process was ended from outside, probably for lack of memory: close other programs and "
                            "run the same command again; what is done is kept") from None
        finally:  # map() does this after an error of its own, but not if Ctrl-C comes between two results
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """End this process when its parent is killed, or it would wait for ever, or write the files of the next run."""
    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
