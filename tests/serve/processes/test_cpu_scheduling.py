import os
import subprocess
import sys

import pytest

THREADS = """
import os, threading
from serve.processes.cpu_scheduling import schedule_as_batch

done = threading.Event()
def linger(): done.wait()
threading.Thread(target=linger, daemon=True).start()
schedule_as_batch()
threading.Thread(target=linger, daemon=True).start()
print(*(os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")
def test_all_threads_are_scheduled_as_batch_earlier_and_later_ones() -> None:
    printed = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True).stdout
    assert [int(policy) for policy in printed.split()] == [os.SCHED_BATCH] * 3
