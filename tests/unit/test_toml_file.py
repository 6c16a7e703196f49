import pytest

from fusseg.core.toml_file import load_toml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = 1\r\nb = 'ü'".encode("latin-1"), "line 2: not UTF-8; save the file as UTF-8"),
        ("a = 1".encode("utf-16"), "line 1: not UTF-8; save the file as UTF-8"),
        ("\na = 1".encode("utf-16-be"), "line 1: not UTF-8; save the file as UTF-8"),
        (
            rb'root = "C:\Users\x"',
            "Invalid hex value (at line 1, column 13); "
            "write a backslash in single quotes, or use /",
        ),
        (b"a = 'C:\\x'\nb = ]", "Invalid value (at line 2, column 5)"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, content, message):
    path = tmp_path / "file.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        load_toml(path)
    assert str(caught.value) == message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_utf8_is_read_with_any_line_ends_and_mark(tmp_path, encoding, end):
    path = tmp_path / "file.toml"
    path.write_bytes(f"a = 'Größe'{end}b = 2{end}".encode(encoding))
    assert load_toml(path) == {"a": "Größe", "b": 2}
