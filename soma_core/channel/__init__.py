"""How whole messages get from one process to another."""
