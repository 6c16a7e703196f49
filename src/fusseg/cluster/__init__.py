"""Run tasks on other machines that share this machine's folders: workers of a Dask cluster."""
