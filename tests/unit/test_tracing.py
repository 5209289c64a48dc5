"""Coverage counts the lines of each greenlet in the right file."""

import subprocess
import sys
from pathlib import Path

from tests.support.code_blocks import ROOT

LEFT = """
from greenlet import getcurrent, greenlet
import right

def wait(other):
    other.switch()
    return other

def work():
    other = greenlet(right.work)
    other.switch(getcurrent())
    wait(other)
"""
# Its lines have other numbers than the lines of the other file.
RIGHT = (
    "\n" * 20
    + """
def wait(other):
    other.switch()
    return other

def work(other):
    wait(other)
    wait(other)
"""
)
COUNT = """
import sys, coverage
from tests.support.tracing import Tracing

sys.path.insert(0, sys.argv[1])
counting = coverage.Coverage(data_file=None, config_file=False, include=[f"{sys.argv[1]}/*"])
counting.start()
tracing = Tracing()
tracing.start()
tracing.resume()
import left, right
left.work()
tracing.pause()
counting.stop()
for module in left, right:
    statements = counting.analysis2(module.__file__)[1]
    print(statements, sorted(counting.get_data().lines(module.__file__)))
"""


def test_two_greenlets_that_take_turns_are_counted_each_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "left.py").write_text(LEFT)
    (tmp_path / "right.py").write_text(RIGHT)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    left, right = [2, 3, 5, 6, 7, 9, 10, 11, 12], [22, 23, 24, 26, 27, 28]
    assert done.stdout == f"{left} {left}\n{right} {right}\n"
