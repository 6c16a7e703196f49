"""Pre-annotations: segmented images as files that labeling tools read."""
