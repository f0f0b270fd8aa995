"""The host's side: workers, their restarts, and pools of them."""
