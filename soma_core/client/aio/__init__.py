"""Workers of an asyncio event loop: the same rules, awaited."""
