"""What every room uses: errors, files, text, random sources, colors and the version."""
