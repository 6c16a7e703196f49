"""A site of a deployment: how it joins, what it stores, and what it answers."""
