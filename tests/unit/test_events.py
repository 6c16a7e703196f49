import os

from fusseg.deployment.server.events import EVENTS, DeploymentEvent, EventReader, write_event

FIRST = DeploymentEvent("waiting", "waiting for 2 sites")
SECOND = DeploymentEvent("answer", "round 1: train from Köln\n\u2028", "Köln")


def test_events_are_read_in_their_order_and_once(tmp_path):
    reader = EventReader(tmp_path)
    assert list(reader.read()) == []
    write_event(tmp_path, FIRST)
    write_event(tmp_path, SECOND)
    assert list(reader.read()) == [FIRST, SECOND]
    assert list(reader.read()) == []
    write_event(tmp_path, FIRST)
    assert list(reader.read()) == [FIRST]


def test_what_was_there_before_is_passed_over(tmp_path):
    write_event(tmp_path, FIRST)
    reader = EventReader(tmp_path)
    assert list(reader.read()) == []
    write_event(tmp_path, SECOND)
    assert list(reader.read()) == [SECOND]


def test_readers_do_not_take_from_each_other(tmp_path):
    left, right = EventReader(tmp_path), EventReader(tmp_path)
    write_event(tmp_path, FIRST)
    assert list(left.read()) == list(right.read()) == [FIRST]


def test_a_line_in_the_making_waits_for_its_end(tmp_path):
    reader = EventReader(tmp_path)
    write_event(tmp_path, FIRST)
    write_event(tmp_path, SECOND)
    path = tmp_path / EVENTS
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        if end == whole.index(b"\n") + 1:
            assert list(reader.read()) == [FIRST]
        else:
            assert list(reader.read()) == []
    path.write_bytes(whole)
    assert list(reader.read()) == [SECOND]


def test_only_its_owner_reads_the_events(tmp_path):
    before = os.umask(0)
    try:
        write_event(tmp_path, FIRST)
    finally:
        os.umask(before)
    assert (tmp_path / EVENTS).stat().st_mode & 0o777 == 0o600


def test_nobody_in_particular_is_an_empty_site():
    assert FIRST.site == ""
