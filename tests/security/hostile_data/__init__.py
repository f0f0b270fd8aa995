"""Data that were made to do harm, by the thousand, read by a process that may die of them.

``python -m tests.security.hostile_data --count 1000000`` runs them for as long as that takes;
``--kind`` chooses one kind. The gate runs some hundreds of each kind.
"""
