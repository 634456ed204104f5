"""What test_soak.py is made of: requests of every kind, what must hold for each answer, and the memory of a server."""
