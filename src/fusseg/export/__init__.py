"""Models leave the run directory: as one file, on the Hugging Face hub, as an ONNX graph."""
