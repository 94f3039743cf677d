"""The work of the commands. Nothing here prints."""
