"""Which client holds which image: one file for each way to divide a data set."""
