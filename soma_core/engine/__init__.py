"""The engine: executes commands against its nodes; knows no transport."""
