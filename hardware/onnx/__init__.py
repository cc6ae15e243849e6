"""Networks as ONNX files: written in milliseconds, checked, quantised, and opened."""
