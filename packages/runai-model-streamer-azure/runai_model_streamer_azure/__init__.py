"""Azure Blob Storage for runai_model_streamer, which has it built in: a name for the extra."""
