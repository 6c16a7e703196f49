"""Work on other machines that share this one's folders: the workers of a Dask cluster."""
