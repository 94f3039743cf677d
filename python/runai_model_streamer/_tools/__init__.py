"""What the commands find out. Nothing here prints."""
