"""What every package uses: errors, files, text, random sources, colors and the version."""
