"""Streaming that the ranks of torch.distributed share."""
