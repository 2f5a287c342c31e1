"""`partymq serve`: the router and the clients API without a cluster."""
