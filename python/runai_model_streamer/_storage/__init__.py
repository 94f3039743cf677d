"""Listing and copying of files and objects."""
