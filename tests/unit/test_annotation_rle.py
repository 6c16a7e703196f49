"""Run-length codes, by hand."""

import numpy as np

from fusseg.export.annotations.label_studio import pack_runs
from fusseg.export.annotations.rle import compress_counts, count_runs, fill_runs


def test_runs_begin_with_what_is_off():
    assert count_runs(np.array([2, 5]), 6).tolist() == [2, 3, 1]
    assert count_runs(np.array([0, 4]), 6).tolist() == [0, 4, 2]
    assert count_runs(np.array([6, 3]), 6).tolist() == [3, 3]
    assert count_runs(np.array([], int), 6).tolist() == [6]


def test_a_run_that_ends_where_the_next_begins_goes_on():
    assert count_runs(np.array([1, 3, 3, 4]), 5).tolist() == [1, 3, 1]


def test_filled_runs_are_the_mask():
    assert fill_runs(np.array([1, 2, 1])).tolist() == [False, True, True, False]


def test_the_compressed_code_has_five_bits_a_character():
    # 40 = 8 + 32 * 1; 3 and 5 fit; 1 - 3 = -2 is 30 with the sign bit set
    assert compress_counts(np.array([40, 3, 5, 1])) == "X135N"


def test_a_brush_code_is_a_head_and_repeats():
    # 1 pixel off, 1 on: 8 values; words of 8 bits; sizes 3, 4, 8 and 16; two repeats of 4
    bits = f"{8:032b}" + f"{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}"
    bits += "1" + "00" + f"{3:03b}" + f"{0:08b}" + "1" + "00" + f"{3:03b}" + f"{255:08b}"
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert pack_runs(np.array([1, 1])).tolist() == expected


def test_a_long_run_is_written_in_pieces():
    packed = pack_runs(np.array([0, 20_000]))
    bits = "".join(f"{byte:08b}" for byte in packed)[53:]
    assert bits[:27] == "111" + f"{2**16 - 1:016b}" + f"{255:08b}"
    assert bits[27:54] == "111" + f"{80_000 - 2**16 - 1:016b}" + f"{255:08b}"
