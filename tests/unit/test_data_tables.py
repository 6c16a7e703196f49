import pytest

from fusseg.data.tables import dump_table, read_table


@pytest.mark.parametrize("text", ["=1+2", "+1", "-1", "@SUM(1)", "\tcell", "'=1", "''-1"])
def test_no_text_is_a_formula_and_all_are_read_back(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(dump_table(("name", "value"), [(text, -1.5)]))
    row = path.read_text().splitlines()[1]
    assert row.strip('"').startswith("'")
    assert row.endswith(",-1.5")
    assert read_table(path, "table", ("name",))[0].cells == {"name": text, "value": "-1.5"}


@pytest.mark.parametrize("text", ["plain", "'quoted'", "a=b", "1-2"])
def test_other_texts_are_written_as_they_are(text):
    assert dump_table(("name",), [(text,)]) == f"name\n{text}\n"


def test_a_table_of_ones_own_may_begin_with_signs(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name\n-1\n")
    assert read_table(path, "table", ("name",))[0].cells == {"name": "-1"}
