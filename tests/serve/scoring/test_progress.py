import subprocess
import sys

from tests.terminal import in_terminal

SCRIPT = "from serve.scoring.progress import shown\nwith shown(200, 50) as advance:\n    advance({rows})"


def test_terminal_gets_a_bar() -> None:
    drawn, out = in_terminal([sys.executable, "-c", SCRIPT.format(rows=100)])
    assert "150/200" in drawn
    assert out == b""


def test_pipe_gets_a_line() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(rows=150)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "scored 200 of 200 rows\n")
