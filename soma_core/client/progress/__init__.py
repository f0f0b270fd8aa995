"""Progress of training, as a host shows it and watches it."""
