"""A site of a deployment: how it joins, what it keeps, and what it answers."""
