"""What all commands do in the same way: print errors without a traceback, stop at a safe place when a signal asks for
it, lock the folder they write into, and use all cores."""
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
    """Handle Ctrl-C while a command imports its modules: as usual, but recorded, as imports lose some exceptions."""
    interrupted.append(number)
    raise KeyboardInterrupt


def report_exception(kind: type[BaseException], error: BaseException, trace) -> None:
    """Print no traceback after Ctrl-C while a command imports its modules; Python then exits as killed by SIGINT."""
    if issubclass(kind, KeyboardInterrupt) and interrupted:
        print("\nstopped before it began", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


interrupted: list[int] = []
sys.excepthook = report_exception
if (threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
    signal.signal(signal.SIGINT, interrupt_import)


class TrainingError(RuntimeError):
    """Training, or what needs a trained model, cannot start or go on; the message says why and what to do."""


class Stopped(BaseException):
    """A signal asked for the end, and everything is saved; not an Exception, as KeyboardInterrupt is not."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number


class CannotLock(OSError):
    """A folder that another command writes into, or that cannot be written."""


def add_verbose(parser: ArgumentParser) -> None:
    """The flag that all commands share; devices.py looks for it, too."""
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's messages, and where errors come from")


def run_main(name: str, function: Callable[[], int | None]) -> int:
    """Call `function` and return an exit code: its own; 1 after a ValueError, OSError or TrainingError, which is
    printed in one line; 128 plus the number of the signal after a signal."""
    try:
        if interrupted:
            raise KeyboardInterrupt
        return function() or 0
    except Stopped as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        interrupted.clear()
        # TensorFlow prints many lines when a compilation is broken off
        logging.getLogger("tensorflow").setLevel(logging.CRITICAL)
        print(f"\n{name}: stopped; what was finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would fail once more at its end
        print(f"{name}: standard output was closed; what was finished is kept", file=sys.stderr)
        return 1
    except (ValueError, OSError, TrainingError) as error:
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
        with contextlib.suppress(OSError):  # standard error was closed: `| tee` was stopped by the same Ctrl-C
            # Not print(), which must not be called while another one is under way
            os.write(2, b"\nstopping after this step; Ctrl-C stops at once, back to the last checkpoint\n")
    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(folder: pathlib.Path, flag: str) -> Iterator[None]:
    """Keep other commands from writing into `folder`, which `flag` named; raises CannotLock if another one does, or if
    the folder is read-only.

    The kernel takes the lock away from a process that ends, however it ends.
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
        except OSError:  # a network drive that knows no locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def start(pool: concurrent.futures.Executor, function: Callable, items: list) -> Iterator:
    """`pool.map` whose processes never receive Ctrl-C, because they inherit that it is blocked. During their imports it
    could only kill them, with one traceback each."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.map(function, *zip(*items))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a Ctrl-C that came meanwhile arrives now


@contextlib.contextmanager
def workers() -> Iterator[Callable]:
    """A process for each core; gives the function (function, items, title) that maps over them with a progress bar,
    results in order. Raises ChildProcessError if one is lost."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core: libraries must not start threads of their own
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context, end_with_parent) as pool:
        try:
            yield lambda function, items, title: list(tqdm(start(pool, function, items), title, len(items),
                                                           disable=None))
        except concurrent.futures.process.BrokenProcessPool:
            raise ChildProcessError("a process was ended from outside, probably for lack of memory: close other "
                                    "programs and run the same command again, what is done stays") from None
        finally:  # map() does so after an error of its own, but not when Ctrl-C comes between two results
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """End this process when its parent is killed. Otherwise it would wait for ever, and meanwhile write the same files
    as the next run. Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
