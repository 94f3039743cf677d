"""One module per loader, each with the same functions; see `interface`."""
