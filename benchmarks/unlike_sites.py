"""Make a folder of sites of which one is tiny and one shows something else, for unlike-sites.toml.

    python benchmarks/unlike_sites.py ../shared/data/flood ../shared/data/objects/all runs/unlike

The sites of the first folder are linked, and the images of the second become the site `foreign`,
without their masks. Only the first images of the site `batch2` are kept. The site `batch1` is
blurred by the grid itself (`data.cameras`).
"""

import argparse
from pathlib import Path

from fusseg.core.visible_text import say
from fusseg.data.tables import dump_table, read_table

TINY, NUM_TINY = "batch2", 4
NUM_FOREIGN = 60


def make_sites(sites: Path, foreign: Path, out: Path) -> None:
    """Link the sites and the foreign images, and write the table of splits."""
    columns = ("stem", "site", "split")
    rows = [row.cells for row in read_table(sites / "splits.csv", "splits", columns)]
    for site in sorted({row["site"] for row in rows}):
        for kind in ("images", "masks"):
            (out / site / kind).mkdir(parents=True)
            files = sorted((sites / site / kind).iterdir())
            for file in files[:NUM_TINY] if site == TINY else files:
                (out / site / kind / file.name).symlink_to(file.resolve())
    (out / "foreign" / "images").mkdir(parents=True)
    for file in sorted((foreign / "images").iterdir())[:NUM_FOREIGN]:
        (out / "foreign" / "images" / file.name).symlink_to(file.resolve())
    kept = [
        tuple(row[name] for name in columns)
        for row in rows
        if any((out / row["site"] / "images").glob(f"{row['stem']}.*"))
    ]
    (out / "splits.csv").write_text(dump_table(columns, kept))
    (out / "classes.toml").write_bytes((sites / "classes.toml").read_bytes())
    say(f"{len(kept)} images of {sites}, and up to {NUM_FOREIGN} of {foreign}, in {out}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sites", type=Path, help="folder of the sites, such as flood")
    parser.add_argument("foreign", type=Path, help="folder with images of something else")
    parser.add_argument("out", type=Path, help="new folder")
    options = parser.parse_args()
    make_sites(options.sites, options.foreign, options.out)


if __name__ == "__main__":
    main()
