"""Objects: files of any size by key, in memory, in a folder or in a cloud's store."""
