"""The timed units of work, one file each, and what they share: losses, precisions, strategies."""
