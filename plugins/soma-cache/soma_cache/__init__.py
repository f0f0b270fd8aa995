"""Results of deterministic filters, kept on disk by what went into them."""
