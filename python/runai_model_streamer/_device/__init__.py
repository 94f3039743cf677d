"""Destinations of tensors: host memory, CUDA devices, and devices that PyTorch copies to."""
