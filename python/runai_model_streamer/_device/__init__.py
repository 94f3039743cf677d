"""Where tensors end: host memory, CUDA devices, and devices that PyTorch copies to."""
