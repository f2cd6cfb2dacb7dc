"""The link: many calls over one conversation between two processes."""
