"""tools: what writes parts of this repository from others; not shipped."""
