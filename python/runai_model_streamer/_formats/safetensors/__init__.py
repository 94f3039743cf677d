"""The safetensors format: headers, dtypes, tensors, selection, destinations, slices."""
