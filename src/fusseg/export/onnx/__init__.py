"""A trained model as one ONNX graph, and whether that graph does what the model does."""
