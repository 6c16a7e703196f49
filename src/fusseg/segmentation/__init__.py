"""What is trained: head, centroids, their losses, and the saved segmenter."""
