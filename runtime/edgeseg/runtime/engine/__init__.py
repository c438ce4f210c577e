"""TensorRT engines made on their device: `api` names, `builder` compiles, `cache` keeps, `choice` decides."""
