"""The timed units of work, one file each, with the losses and precisions that they share."""
