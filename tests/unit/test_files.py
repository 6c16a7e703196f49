import os
import threading

import pytest

from fusseg.core.files import write_atomically


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a.bin"
    write_atomically(path, b"\0one\n")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_may_be_empty(tmp_path):
    write_atomically(tmp_path / "a", b"")
    assert (tmp_path / "a").read_bytes() == b""


def test_a_failed_write_leaves_what_was_there_and_no_temporary_file(tmp_path):
    folder = tmp_path / "taken"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write_atomically(folder, b"new")
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "inside").exists()


def test_a_missing_folder_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        write_atomically(tmp_path / "none" / "a", b"")


def test_a_reader_sees_one_content_or_the_other(tmp_path):
    path = tmp_path / "a"
    contents = {letter * 300_000 for letter in (b"a", b"b")}
    write_atomically(path, min(contents))
    stop, seen = threading.Event(), set()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for content in contents:
            write_atomically(path, content)
    stop.set()
    reader.join()
    assert seen <= contents


def test_the_mode_is_what_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    path = tmp_path / ("가" * 83 + ".json.")
    assert len(path.name.encode()) == os.pathconf(tmp_path, "PC_NAME_MAX") == 255
    write_atomically(path, b"a")
    assert path.read_bytes() == b"a"
