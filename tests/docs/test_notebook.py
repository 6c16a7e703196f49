"""The notebook of the tutorial runs from top to bottom, and is shipped without outputs."""

import sys

import nbformat
import pytest
from blocks import ROOT
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"


class ThisPython(KernelSpecManager):
    """The interpreter of the tests, whatever kernels are installed on the machine."""

    def get_kernel_spec(self, kernel_name):
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=launch, display_name=kernel_name, language="python")


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_shipped_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.docs
def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.create_kernel_manager()
    client.km.kernel_spec_manager = ThisPython()
    client.execute()
    text = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "round 10: mIoU" in text
    assert float(text.rpartition("IoU of the pipe at hall: ")[2]) > 0.7
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
