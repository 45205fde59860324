"""What all commands share: errors without a traceback, a stop at a safe place after a signal, a lock on the folder that
a command writes into, and the use of all cores."""
import concurrent.futures.process
import contextlib
import fcntl
import logging
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import threading
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterator

from tqdm import tqdm


def interrupt_import(number: int, frame) -> None:
    """Handle Ctrl-C while a command imports its modules. The signal is also recorded, because an import may swallow the
    exception."""
    interrupted.append(number)
    raise KeyboardInterrupt


def report_exception(kind: type[BaseException], error: BaseException, trace) -> None:
    """Print no traceback if Ctrl-C came while a command imported its modules; Python then exits as killed by SIGINT."""
    if issubclass(kind, KeyboardInterrupt) and interrupted:
        print("\nstopped before it began", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


interrupted: list[int] = []
sys.excepthook = report_exception
if (threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
    signal.signal(signal.SIGINT, interrupt_import)


class UserError(Exception):
    """What the user can put right; the message names the file or flag and the cure. `run_main` prints it in one line.
    Every other exception is a fault of the program, or of code that a user changed, and keeps its traceback."""


class Stopped(BaseException):
    """A signal stopped the command after everything was saved. Like KeyboardInterrupt, this is no Exception."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number


class CannotLock(UserError):
    """A folder cannot be locked: another command writes into it, or it cannot be written."""


def add_verbose(parser: ArgumentParser) -> None:
    """Add --verbose, which all commands have; devices.py also looks for it in sys.argv."""
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's messages, and tracebacks of errors")


def run_main(name: str, function: Callable[[], int | None]) -> int:
    """Call `function` and return the exit code: its return value; 1 after a UserError or an OSError with the name of a
    file, whose message is printed in one line; or 128 plus the number of a signal."""
    try:
        if interrupted:
            raise KeyboardInterrupt
        return function() or 0
    except Stopped as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        interrupted.clear()
        # TensorFlow prints many lines when a compilation is interrupted
        logging.getLogger("tensorflow").setLevel(logging.CRITICAL)
        print(f"\n{name}: stopped; what was finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # for instance after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python fails again when it exits
        print(f"{name}: standard output was closed; what was finished is kept", file=sys.stderr)
        return 1
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise
        if "--verbose" in sys.argv:
            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def recording_signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM in the yielded list and go on; a second Ctrl-C ends the process at once."""
    received: list[int] = []

    def record(number, frame):
        received.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # standard error may be closed: the same Ctrl-C stops a `| tee`
            # Not print(): the signal may have interrupted another print()
            os.write(2, b"\nstopping after this step; Ctrl-C stops at once, back to the last checkpoint\n")
    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(folder: pathlib.Path, flag: str) -> Iterator[None]:
    """Keep other commands from writing into `folder`, which the user named by `flag`. Raises CannotLock if another
    command writes there, or if the folder is read-only.

    The kernel releases the lock when the process ends, even if it is killed.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+", encoding="utf-8")
    except OSError as error:
        raise CannotLock(f"{folder} cannot be written ({error.strerror}): choose another {flag}, or change its "
                         "permissions") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CannotLock(f"{folder} is in use by {file.read() or 'another process'}: choose another {flag}, "
                             "or wait until that ends") from None
        except OSError:  # a network drive without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def start(pool: concurrent.futures.Executor, function: Callable, items: list) -> Iterator:
    """Call `pool.map`, whose processes inherit that Ctrl-C is blocked. Otherwise Ctrl-C during their imports would kill
    them, and each would print a traceback."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.map(function, *zip(*items))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a Ctrl-C that came meanwhile arrives now


@contextlib.contextmanager
def workers() -> Iterator[Callable]:
    """Start a process for each core; yields a function (function, items, title) that maps over the items with a
    progress bar and returns the results in order. Raises UserError if a process is lost."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core has a process, so libraries must not start more threads
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context, end_with_parent) as pool:
        try:
            yield lambda function, items, title: list(tqdm(start(pool, function, items), title, len(items),
                                                           disable=None))
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError("a process was ended from outside, probably for lack of memory: close other programs "
                            "and run the same command again; what is done is kept") from None
        finally:  # map() does this after an error of its own, but not if Ctrl-C comes between two results
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """End this process when its parent is killed. Otherwise it would wait for ever, or write the same files as the next
    run. This process ignores Ctrl-C, which only the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
