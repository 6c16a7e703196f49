"""Images in, sites out: folders of sites and generated scenes."""
