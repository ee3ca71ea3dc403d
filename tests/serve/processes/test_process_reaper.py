import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from serve.processes.process_reaper import environment, marked, reaping

SLEEPER = """
import signal, tempfile, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(tempfile.mkdtemp(), flush=True)
time.sleep(60)
"""
HOLDER = f"""
import os, subprocess, sys
from pathlib import Path
from serve.processes.process_reaper import environment, reaping
folder = Path(sys.argv[1])
with reaping(folder) as mark:
    wanted = os.environ | environment(mark, folder)
    child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], env=wanted, stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def test_all_marked_processes_end_with_the_context(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "log").write_text("")
    with reaping(folder) as mark:
        child = subprocess.Popen(
            [sys.executable, "-c", SLEEPER], env=os.environ | environment(mark, folder), stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        left = Path(child.stdout.readline().decode().strip())
        assert left.is_dir()
        os.kill(child.pid, signal.SIGTERM)  # it does not mind
        assert marked(mark) == [child.pid]
    child.stdout.close()
    assert child.wait(10) == -signal.SIGKILL
    assert not folder.exists()
    assert not left.exists(), "what it could not clear up itself"


def test_all_processes_end_when_the_job_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    child = psutil.Process(int(holder.stdout.readline()))
    family = psutil.Process(holder.pid).children()
    assert len(family) == 2  # the guard, and what it guards
    assert child in family
    holder.kill()
    holder.wait()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not folder.exists()
    holder.stdin.close()
    holder.stdout.close()
