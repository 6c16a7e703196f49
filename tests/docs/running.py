"""Run one line of a shell block."""

import os
import re
import subprocess
import sys
from pathlib import Path

from blocks import words_of

EXPANDED = re.compile(r"[|<>&;$*?~`(]")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
COMMENT = re.compile(r"(?:^|\s)#.*$")


def run_line(command, smaller, run_command, place):
    """Run one line: in this process where it is fusseg alone, else by the shell."""
    words = words_of(command)
    plain = COMMENT.sub("", QUOTED.sub("", command))
    if words is None or EXPANDED.search(plain):
        program = Path(sys.executable).parent
        environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}"}
        code = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=environment | {"OMP_NUM_THREADS": "1"},
            check=False,
        ).returncode
    else:
        code = run_command(*words, *smaller.get(words[0], ()))
    assert code == 0, f"{place}: {command}"
