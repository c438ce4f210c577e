"""What TensorRT makes of an ONNX file, told before it is tried on a device: by rules, and by NVIDIA's own compiler."""
