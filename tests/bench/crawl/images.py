"""Images a second: fetched, checked, hashed and stored, against img2dataset.

The same server and images. img2dataset is told not to resize, and not to encode anew what decodes:
it too fetches, decodes, takes a sha256 and stores the original bytes, as files. It runs in an
environment of its own, one process as here, 16 threads for as many requests as here are under way.
Printed beside: img2dataset with its defaults, which reduces each image to 256 px and encodes it
anew, as most who use it do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent / "rig"))

from bench_site import Site
from bench_tools import HERE, environment, tell

IMAGES, PAGES, TURNS = 100, 10, 2  # images of a page
DOWNLOAD = """
import sys
from img2dataset import download
download(
    url_list=sys.argv[1], output_folder=sys.argv[2], input_format="txt", output_format="files",
    processes_count=1, thread_count=16, resize_mode="no", skip_reencode=True,
    compute_hash="sha256", number_sample_per_shard=10000, retries=0, timeout=10,
)
"""
DEFAULTS = DOWNLOAD.replace('resize_mode="no", skip_reencode=True,', "")


def main() -> None:
    python = environment("img2dataset", ["img2dataset"])
    ours, theirs, usual = list[float](), list[float](), list[float]()
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    with Site(PAGES, IMAGES, PAGES) as site, tempfile.TemporaryDirectory() as home:
        urls = Path(home) / "urls.txt"
        urls.write_text(
            "\n".join(f"http://{site.host}/image/{n}.jpg" for n in range(PAGES * IMAGES))
        )
        for turn in range(TURNS):
            folder = str(Path(home) / f"ours-{turn}")
            start = f"http://{site.host}/page/0"
            command = [sys.executable, str(HERE / "our_spider.py"), start, str(PAGES), "100000"]
            subprocess.run([*command, folder], env=variables, check=True, capture_output=True)
            ours.append(site.rate("image"))
            for number, (program, rates) in enumerate(((DOWNLOAD, theirs), (DEFAULTS, usual))):
                folder = str(Path(home) / f"theirs-{turn}-{number}")
                command = [str(python), "-c", program, str(urls), folder]
                subprocess.run(command, env=variables, check=True, capture_output=True)
                stored = len(list(Path(folder).rglob("*.jpg")))
                assert stored == PAGES * IMAGES, f"img2dataset stored {stored}"
                rates.append(site.rate("image"))
    rate, other = median(ours), median(theirs)
    tell(
        "crawl.images_vs_img2dataset", rate / other, "x", 1.0,
        f"img2dataset: {other:.0f} images/s, here {rate:.0f}, of about 40 kB",
    )  # fmt: skip
    reducing = median(usual)
    tell(
        "crawl.images_vs_img2dataset_defaults", rate / reducing, "x", 1.0,
        f"img2dataset, reducing to 256 px: {reducing:.0f} images/s",
    )  # fmt: skip


if __name__ == "__main__":
    main()
