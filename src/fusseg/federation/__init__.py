"""Who trains and who aggregates: clients, strategies and the rounds between them."""
