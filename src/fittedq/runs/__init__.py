"""A run: what it is told, what it reports, and the folder it keeps."""
