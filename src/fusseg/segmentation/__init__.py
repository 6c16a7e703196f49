"""The trained model: its head and centroids, their losses, and the assignment of pixels."""
