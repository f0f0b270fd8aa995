"""How a chain of nodes is fitted: alone, jointly, batch by batch."""
