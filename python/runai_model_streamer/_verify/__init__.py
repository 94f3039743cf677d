"""Digests of whole files, and the manifests that say what they must be."""
