"""`mooring bench`: what capping costs, and what it buys, on any server."""
