"""What installed distributions add: found, loaded one by one, and called."""
