"""Forks in the middle of another thread's step; the tests run it in processes of their own."""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback


def child(work, timeout=30):
    """Runs work in a forked process. Returns its exit code: the work's, 1 if it fails, or -14 if it hangs."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(timeout)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class Busy:
    """Runs work again and again in another thread."""

    def __init__(self, work):
        self.work, self.stop = work, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.is_set():
            self.work()

    def __enter__(self):
        self.thread.start()
        time.sleep(0.02)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


TORN = 20


def refused(work):
    """Whether a call says that a fork has torn the optimizer."""
    try:
        work()
    except RuntimeError as error:
        assert "forked" in str(error) and "checkpoint" in str(error), error
        return True
    return False


def forks(busy, work, count=20):
    """Forks while another thread is busy. Returns how many children have found their optimizer torn."""
    codes = []
    with Busy(busy):
        for place in range(count):
            codes.append(child(work))
            time.sleep(0.0007 * (place % 5))
    assert set(codes) <= {0, TORN}, codes
    return codes.count(TORN)
