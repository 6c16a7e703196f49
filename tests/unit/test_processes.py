import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusseg.core.errors import ConfigError, FederationError
from fusseg.deployment import processes
from fusseg.deployment.processes import (
    free_port,
    last_lines,
    listen,
    open_private,
    start_process,
    stop_process,
)

PATIENT = 20.0
"""Seconds that a busy machine may need."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")


def is_alive(number):
    """Whether there is a process of that number; a zombie is none."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition):
    until = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    """Start Python code in a process, which is gone after the test."""
    started = []

    def begin(code, sockets=(), **variables):
        command = [sys.executable, "-u", "-c", code]
        process = start_process(command, variables, tmp_path / "log", tmp_path, sockets)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def said(tmp_path):
    path = tmp_path / "log"
    return path.read_text() if path.exists() else ""


def test_a_process_writes_to_its_log_and_nowhere_else(start, tmp_path, capfd):
    (tmp_path / "log").write_text("before\n")
    start("import sys; print('out'); print('err', file=sys.stderr)").wait(PATIENT)
    assert said(tmp_path) == "before\nout\nerr\n"
    assert capfd.readouterr() == ("", "")


def test_a_process_gets_its_variables_its_folder_and_no_input(start, tmp_path):
    code = "import os, sys; print(os.getcwd(), sorted(os.environ), repr(sys.stdin.read()))"
    start(code, ONE="1", TWO="2").wait(PATIENT)
    folder, rest = said(tmp_path).split(" ", 1)
    assert Path(folder) == tmp_path
    assert "'ONE', 'TWO'" in rest
    assert "PATH" not in rest
    assert rest.endswith(" ''\n")


def test_a_process_has_a_session_of_its_own(start, tmp_path):
    process = start("import time; time.sleep(60)")
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_a_program_that_is_not_there_is_named(tmp_path):
    program = str(tmp_path / "none")
    with pytest.raises(FederationError) as caught:
        start_process([program, "-v"], {}, tmp_path / "log", tmp_path)
    assert str(caught.value) == f"cannot start {program}: No such file or directory"


def test_only_its_owner_reads_a_log(tmp_path):
    before = os.umask(0)
    try:
        with open_private(tmp_path / "log") as file:
            file.write(b"one\n")
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    with open_private(tmp_path / "log") as file:
        file.write(b"two\n")
    assert said(tmp_path) == "one\ntwo\n"


def test_a_process_is_asked_to_stop_first(start, tmp_path):
    process = start(
        "import signal, sys, time\n"
        "def stop(*_):\n    print('stopped in order')\n    sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready')\ntime.sleep(60)"
    )
    wait_until(lambda: "ready" in said(tmp_path))
    stop_process(process)
    assert process.returncode == 3
    assert said(tmp_path) == "ready\nstopped in order\n"


def test_a_process_that_does_not_stop_is_killed(start, tmp_path, monkeypatch):
    assert processes.STOP_SECONDS == 10
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.3)
    process = start(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready')\ntime.sleep(60)"
    )
    wait_until(lambda: "ready" in said(tmp_path))
    stop_process(process)
    assert process.returncode == -signal.SIGKILL


@linux
@pytest.mark.parametrize("stubborn", [False, True])
def test_what_a_process_started_is_stopped_with_it(start, tmp_path, stubborn):
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    grandchild = f"import signal, time; {ignore}print('ready', flush=True); time.sleep(60)"
    process = start(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        "print(child.pid)\ntime.sleep(60)"
    )
    wait_until(lambda: said(tmp_path).count("\n") == 2)
    number = next(int(word) for word in said(tmp_path).split() if word != "ready")
    assert is_alive(number)
    stop_process(process)
    assert process.returncode == -signal.SIGTERM
    wait_until(lambda: not is_alive(number))


def test_a_process_that_has_ended_can_be_stopped_again(start):
    process = start("pass")
    process.wait(PATIENT)
    stop_process(process)
    stop_process(process)
    assert process.returncode == 0


PARENT = """
import sys, time
from pathlib import Path
from fusseg.deployment.processes import start_process
folder = Path(sys.argv[1])
command = [sys.executable, "-c", sys.argv[2]]
print(start_process(command, {}, folder / "log", folder).pid, flush=True)
time.sleep(60)
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_is_gone_after_its_parent_is_killed(tmp_path, number):
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    command = [sys.executable, "-c", PARENT, str(tmp_path), ignore]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.send_signal(number)
    wait_until(lambda: not is_alive(child))


WATCHER = """
import time
from fusseg.deployment.processes import watch_parent
watch_parent(0.05)
print("watching", flush=True)
time.sleep(60)
"""


@linux
def test_a_process_that_watches_its_parent_ends_with_it(tmp_path):
    """Started by something that knows nothing of it, as Flower starts its apps."""
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {WATCHER!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until(lambda: not is_alive(child))


def test_a_process_that_watches_its_parent_lives_as_long_as_that(start, tmp_path):
    process = start(WATCHER)
    wait_until(lambda: "watching" in said(tmp_path))
    time.sleep(0.3)
    assert process.poll() is None


def test_a_free_port_can_be_listened_on():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        assert server.getsockname() == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ""),
        (b"one", "one"),
        (b"1\n2\n3\n4\n5\n6\n7\n", "3\n4\n5\n6\n7"),
        (b"1\n \n\n2\n", "1\n2"),
        (b"K\xf6ln\n", "K\ufffdln"),
    ],
)
def test_the_end_of_a_log_is_shown(tmp_path, content, expected):
    (tmp_path / "log").write_bytes(content)
    assert last_lines(tmp_path / "log") == expected


def test_fewer_lines_can_be_asked_for_and_a_missing_log_has_none(tmp_path):
    (tmp_path / "log").write_text("1\n2\n3\n")
    assert last_lines(tmp_path / "log", 2) == "2\n3"
    assert last_lines(tmp_path / "none") == ""


HOSTS = ("127.0.0.1", "0.0.0.0", "localhost")


def close(sockets):
    for one in sockets:
        one.close()


def test_a_port_that_somebody_listens_on_is_taken_and_free_afterwards():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host in HOSTS:
            with pytest.raises(ConfigError) as caught:
                listen(host, port)
            assert str(caught.value) == f"port {port} of {host} is taken; choose another --port"
        with socket.create_connection(("127.0.0.1", port)) as client, taken.accept()[0]:
            client.sendall(b"x")
    # closed by the server's side first: that port is in use for a minute, and may be listened on
    for host in HOSTS:
        close(listen(host, port))


@pytest.mark.parametrize("host", HOSTS)
def test_of_two_that_listen_one_is_refused_at_once(host):
    """Before either takes a connection: both would begin their work, and one lose it."""
    port = free_port()
    first = listen(host, port)
    try:
        with pytest.raises(ConfigError, match=f"port {port} of {host} is taken; choose another"):
            listen(host, port)
        # who comes in the meantime waits
        with socket.create_connection(("127.0.0.1", port), PATIENT):
            pass
    finally:
        close(first)
    close(listen(host, port))


def test_a_process_takes_the_connections_of_a_socket_that_it_is_given(start, tmp_path):
    (listening,) = listen("127.0.0.1", 0)
    code = (
        "import socket, sys\n"
        f"connection, _ = socket.socket(fileno={listening.fileno()}).accept()\n"
        "connection.sendall(b'from the child')"
    )
    with listening, socket.create_connection(listening.getsockname(), PATIENT) as client:
        start(code, sockets=[listening])
        assert client.recv(100) == b"from the child"


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigError) as caught:
        listen("192.0.2.1", 8443)
    assert str(caught.value) == (
        f"cannot listen on 192.0.2.1:8443: {os.strerror(errno.EADDRNOTAVAIL)}; choose another "
        "--host or --port"
    )
    for host in ("1.2.3.400", "x" * 64 + ".example.org"):
        with pytest.raises(ConfigError, match=f"cannot listen on '{host}': .*; choose another"):
            listen(host, 8443)
