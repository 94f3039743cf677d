"""Digests of whole files, and the manifests that they must match."""
