"""What all commands do alike: tell errors without a traceback, end when they are told to, at a safe place, and use all
cores."""
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
    """For Ctrl-C while a command imports what it needs: as usual, but noted, for imports lose some exceptions."""
    interrupted.append(number)
    raise KeyboardInterrupt


def tell_exception(kind: type[BaseException], error: BaseException, trace) -> None:
    """Without a traceback for Ctrl-C while a command imports what it needs; Python then exits as killed by SIGINT."""
    if issubclass(kind, KeyboardInterrupt) and interrupted:
        print("\nstopped before it began", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


interrupted: list[int] = []
sys.excepthook = tell_exception
if (threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
    signal.signal(signal.SIGINT, interrupt_import)


class Stopped(BaseException):
    """A signal asked for the end, and all is in order; no Exception, as KeyboardInterrupt is none."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number


class CannotLock(OSError):
    """A folder that another command writes into, or that cannot be written."""


def add_verbose(parser: ArgumentParser) -> None:
    """The flag that all commands share; quiet.py looks for it, too."""
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's messages, and where errors come from")


def run_main(name: str, function: Callable[[], int | None], *errors: type[Exception]) -> int:
    """Call `function` and return an exit code: its own, 1 after an error that is told in a line, ValueError, OSError or
    one of `errors`, and 128 and the number of the signal after a signal."""
    try:
        if interrupted:
            raise KeyboardInterrupt
        return function() or 0
    except Stopped as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        interrupted.clear()
        # What was being compiled is thrown away half made, of which TensorFlow complains at length
        logging.getLogger("tensorflow").setLevel(logging.CRITICAL)
        print(f"\n{name}: stopped; what was finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would fail once more at its end
        print(f"{name}: nobody reads what it prints; what was finished is kept", file=sys.stderr)
        return 1
    except (ValueError, OSError, *errors) as error:
        if "--verbose" in sys.argv:
            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the list given and go on; a second Ctrl-C ends the process at once."""
    noted: list[int] = []

    def note(number, frame):
        noted.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # nobody reads: `| tee` was stopped by the same Ctrl-C
            # Not print(), which must not be called while another one is under way
            os.write(2, b"\nstopping after this step; Ctrl-C stops at once, back to the last checkpoint\n")
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(folder: pathlib.Path, flag: str) -> Iterator[None]:
    """Keep other commands from writing into `folder`, which `flag` named; raises CannotLock if one does, or if it is
    read-only.

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
    """`pool.map`, whose processes never hear of Ctrl-C: they inherit that it is blocked. While they import what they
    need they could only die of it, with a traceback each."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.map(function, *zip(*items))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # one that came meanwhile comes now


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
    """End this process when the one that started it is killed: it would wait for ever, and until then go on writing
    what the next run writes, too. Ctrl-C is for that one alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
