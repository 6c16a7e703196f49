import pytest
import torch

from fusseg.config import compute as module
from fusseg.config.compute import (
    EXACT,
    Compute,
    choose_compute,
    has_bfloat16,
    processor_name,
    set_threads,
)
from fusseg.config.schema import ComputeConfig
from fusseg.core.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Say what the processor can do."""

    def describe(flags):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor : 0\nflags : fpu {flags} sse2\n")
        monkeypatch.setattr(module, "_CPU_INFO", path)

    return describe


def test_the_default_is_float32_whatever_the_processor_can_do(processor):
    processor("avx512_bf16")
    assert choose_compute(ComputeConfig(device="cpu")) == EXACT


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_takes_bfloat16_where_the_processor_multiplies_it(processor, flag):
    processor(flag)
    chosen = choose_compute(ComputeConfig(device="cpu", precision="auto"))
    assert chosen == Compute(CPU, torch.bfloat16)
    assert chosen.precision_name == "bfloat16"


@pytest.mark.parametrize("flags", ["avx512f", "avx512_bf16x", ""])
def test_auto_takes_float32_elsewhere(processor, flags):
    processor(flags)
    assert choose_compute(ComputeConfig(device="cpu", precision="auto")) == EXACT


def test_a_machine_that_does_not_describe_its_processor_has_no_bfloat16(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_CPU_INFO", tmp_path / "none")
    assert not has_bfloat16(CPU)


def test_the_processor_is_named_with_what_tells_models_of_one_name_apart(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 2\n")
    monkeypatch.setattr(module, "_CPU_INFO", path)
    assert processor_name() == "AMD EPYC (cpu family 25, model 1, stepping 2)"
    monkeypatch.setattr(module, "_CPU_INFO", tmp_path / "none")
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert processor_name() == "arm"


def test_bfloat16_can_be_asked_for_anywhere(processor):
    processor("")
    chosen = choose_compute(ComputeConfig(device="cpu", precision="bfloat16"))
    assert chosen.precision == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"^compute.device is 'cuda', but torch .* choose cpu"):
        choose_compute(ComputeConfig(device="cuda"))
    assert choose_compute(ComputeConfig()).device == CPU


def test_threads_are_set_only_where_the_configuration_says_so():
    before = torch.get_num_threads()
    try:
        set_threads(ComputeConfig())
        assert torch.get_num_threads() == before
        set_threads(ComputeConfig(threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_products_are_rounded_inside_the_context_only():
    left, right = torch.randn(3, 4), torch.randn(4, 2)
    with Compute(CPU, torch.bfloat16).products():
        assert (left @ right).dtype == torch.bfloat16
    with EXACT.products():
        assert (left @ right).dtype == torch.float32


def test_what_is_sent_to_the_processor_stays_where_it_is():
    tensor = torch.ones(3)
    assert EXACT.send(tensor) is tensor
    assert EXACT.free_memory() == 0
