import pytest

from fusseg.core.errors import DataError
from fusseg.data.splits import SplitRow, read_splits, split_by_image


def table(tmp_path, content):
    path = tmp_path / "splits.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path):
    with pytest.raises(DataError) as caught:
        read_splits(path)
    return str(caught.value)


def test_columns_come_in_any_order_among_others(tmp_path):
    path = table(tmp_path, "site,note,split,stem\ns1,x,train,0001\ns2,y,val,0002\n")
    rows = (SplitRow(2, "0001", "s1", "train"), SplitRow(3, "0002", "s2", "val"))
    assert read_splits(path) == rows
    assert split_by_image(rows) == {("s1", "0001"): "train", ("s2", "0002"): "val"}


def test_byte_order_mark_carriage_returns_blanks_and_quotes_are_fine(tmp_path):
    content = b'\xef\xbb\xbfstem,site,split\r\n\r\n"a, b", s1 ,train\r\n,,\r\n'
    assert read_splits(table(tmp_path, content)) == (SplitRow(3, "a, b", "s1", "train"),)


def test_the_same_row_twice_is_fine(tmp_path):
    path = table(tmp_path, "stem,site,split\na,s,train\na,s,train\n")
    assert split_by_image(read_splits(path)) == {("s", "a"): "train"}


def test_two_splits_of_one_image_are_refused(tmp_path):
    path = table(tmp_path, "stem,site,split\na,s,train\n\na,s,val\n")
    assert refused(path) == (
        f"image 'a' of site 's' is in split 'train' on line 2 and in split 'val' on line 4: {path}"
    )


def test_a_missing_column_is_named(tmp_path):
    path = table(tmp_path, "stem,site,subset\na,s,train\n")
    assert refused(path) == (
        f"table of splits has no column 'split' among stem, site, subset: {path}"
    )
    path = table(tmp_path, "stem;site;split\na;s;train\n")
    assert refused(path) == (
        "table of splits has no column 'stem' among stem;site;split; "
        f"separate the columns by commas, not semicolons: {path}"
    )


def test_a_short_row_is_named(tmp_path):
    path = table(tmp_path, "stem,site,split\na,s\n")
    assert refused(path) == f"line 2 has 2 columns, expected 3: {path}"


def test_an_empty_table_is_refused(tmp_path):
    path = table(tmp_path, "\n")
    assert refused(path) == (
        f"table of splits is empty, expected the columns stem, site, split: {path}"
    )


def test_another_encoding_is_refused(tmp_path):
    path = table(tmp_path, "stem,site,split\nä,s,train\n".encode("utf-16"))
    assert refused(path) == f"table of splits is not UTF-8; save it as CSV UTF-8: {path}"


def test_malformed_csv_is_refused(tmp_path):
    path = table(tmp_path, "stem,site,split\n" + "a" * 200_000 + ",s,train\n")
    assert refused(path) == (
        f"table of splits is not valid CSV (field larger than field limit (131072)): {path}"
    )


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    assert refused(tmp_path) == f"table of splits cannot be read (Is a directory): {tmp_path}"
