"""What moves a link's frames, a module for each way."""
