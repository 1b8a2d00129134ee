"""CPU-milliseconds an image of ``download`` against img2dataset 1.47.0, interleaved, from nginx on loopback.

    apt install nginx openssl; pip install --target PEER fire wandb exifread
    python -m tests.benchmarks.download PEER [images] [rounds] [http-640x480 http-1600x1200 https-640x480 …]

Each contender is a process of its own with one worker, run on a fifth of the images and on all of them; the
difference is what an image costs, without start-up.  The server's time is not counted.  Guards are on for us.
Images are noisy JPEGs of quality 88, 640x480 and 1600x1200; both store a shortest side of 256 at quality 95, with
SHA-256 and EXIF.  Also says how far our pictures are from theirs (PSNR), and how many are theirs bit by bit with
``exact``.
"""

import csv
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import pyarrow.parquet as pq

SIZES = {"640x480": (640, 480), "1600x1200": (1600, 1200)}
KINDS = (("http", "640x480"), ("http", "1600x1200"), ("https", "640x480"))
FILES = 100
PORTS = {"http": 18080, "https": 18443}

_NGINX = """
worker_processes 1; daemon off; pid {root}/nginx.pid; error_log {root}/error.log crit;
events {{ worker_connections 2048; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_timeout 0; types {{ image/jpeg jpg; }}
  client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};
  uwsgi_temp_path {root}; scgi_temp_path {root};
  server {{ listen 127.0.0.1:{http} backlog=2048; root {root}/images; }}
  server {{
    listen 127.0.0.1:{https} ssl backlog=2048; root {root}/images; ssl_certificate {root}/cert.pem;
    ssl_certificate_key {root}/key.pem; ssl_session_cache off; ssl_session_tickets off;
  }}
}}
"""
_PEER = """
import sys

from img2dataset import download

if __name__ == "__main__":
    download(url_list=sys.argv[1], output_folder=sys.argv[2], input_format="csv", url_col="url", caption_col="text",
             image_size=256, resize_mode="keep_ratio", output_format="webdataset", processes_count=1, thread_count=64,
             number_sample_per_shard=1000)
"""


def make_images(root: Path) -> None:
    """Noisy pictures: entropy decoding weighs more than in smooth ones."""
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for i in range(FILES):
            small = rng.integers(0, 255, (height // 80, width // 80, 3), dtype=np.uint8)
            smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
            noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"{i}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 88])


def make_certificate(root: Path) -> None:
    """A certificate of our own for 127.0.0.1; both contenders trust it through ``SSL_CERT_FILE``, among the usual."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{root}/key.pem", "-out", f"{root}/cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    usual = Path("/etc/ssl/certs/ca-certificates.crt")  # both parse as many as on any machine
    roots = usual.read_bytes() if usual.exists() else b""
    (root / "roots.pem").write_bytes(roots + (root / "cert.pem").read_bytes())


@contextmanager
def serving(root: Path) -> Iterator[None]:
    """Nginx, for the length of the block."""
    (root / "nginx.conf").write_text(_NGINX.format(root=root, **PORTS))
    server = subprocess.Popen(["nginx", "-c", f"{root}/nginx.conf", "-p", str(root)], stderr=subprocess.DEVNULL)
    time.sleep(1)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def write_list(root: Path, scheme: str, size: str, count: int) -> Path:
    """A list of different URLs."""
    file = root / f"{scheme}-{size}-{count}.csv"
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["url", "text"])
        base = f"{scheme}://127.0.0.1:{PORTS[scheme]}/{size}"
        rows.writerows([f"{base}/{i % FILES}.jpg?{i}", f"picture number {i}"] for i in range(count))
    return file


@dataclass(frozen=True)
class Contender:
    """A program that downloads a list into a folder."""

    name: str
    exact: bool | None  # None: the peer

    def command(self, root: Path, urls: Path, out: Path) -> list[str]:
        """Its command line."""
        if self.exact is None:
            script = root / "peer.py"
            script.write_text(_PEER)
            return [sys.executable, str(script), str(urls), str(out)]
        settings = {"image_size": 256, "resize_mode": "keep_ratio", "extract_exif": True, "exact": self.exact}
        more = {"allow_addresses": ["127.0.0.1/32"], "concurrency": 64, "host_concurrency": 64, "threads": 1}
        recipe = root / f"{urls.stem}-{self.exact}.json"
        pool = {"urls": {"path": str(urls), "shard_rows": 1000}}
        recipe.write_text(json.dumps({"pool": pool, "filters": [{"download": settings | more}]}))
        return [sys.executable, "-m", "pairsieve", "run", str(recipe), "--out", str(out), "-q", "--workers", "1"]


PEER = Contender("img2dataset 1.47.0", None)
OURS = (Contender("pairsieve", False), Contender("pairsieve, exact", True))
CONTENDERS = (PEER, *OURS)


def cpu_seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """User and system time of a command and all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def per_image(contender: Contender, root: Path, lists: Sequence[Path], counts: Sequence[int], peer: str) -> float:
    """CPU-milliseconds an image: the difference of a long and a short run."""
    environment = {**os.environ, "SSL_CERT_FILE": str(root / "roots.pem"), "WANDB_MODE": "disabled"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *([peer] if contender is PEER else [])])
    spent = []
    for urls in lists:
        with tempfile.TemporaryDirectory(dir=root) as out:
            spent.append(cpu_seconds(contender.command(root, urls, Path(out) / "out"), environment))
            _check(contender, Path(out) / "out", counts[len(spent) - 1])
    return 1000 * (spent[1] - spent[0]) / (counts[1] - counts[0])


def _check(contender: Contender, out: Path, wanted: int) -> None:
    if (found := len(pictures(contender, out))) != wanted:
        raise SystemExit(f"{contender.name}: {found} pictures of {wanted}")


def pictures(contender: Contender, out: Path) -> dict[str, bytes]:
    """Stored files by caption."""
    if contender is not PEER:
        tables = [pq.read_table(p, columns=["row", "shard", "image"]) for p in out.glob("scores/download/*.parquet")]
        rows = [row for table in tables for row in table.to_pylist() if row["image"] is not None]
        return {f"picture number {r['shard'] * 1000 + r['row']}": r["image"] for r in rows}
    found: dict[str, bytes] = {}
    for tar in out.glob("*.tar"):
        with tarfile.open(tar) as file:
            held = {member.name: file.extractfile(member).read() for member in file}  # type: ignore[union-attr]
        keys = {name.rpartition(".")[0] for name in held}
        found |= {held[f"{key}.txt"].decode(): held[f"{key}.jpg"] for key in keys}
    return found


def psnr(one: bytes, other: bytes) -> float:
    """Of two stored pictures, dB."""
    pair = [np.asarray(cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR), float) for d in (one, other)]
    error = float(np.mean((pair[0] - pair[1]) ** 2))
    return 100.0 if error == 0 else 10 * np.log10(255**2 / error)


def compare(root: Path, peer: str) -> None:
    """How far our pictures are from theirs."""
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), peer])}
    for size in SIZES:
        urls = write_list(root, "http", size, FILES)
        found = {}
        for contender in CONTENDERS:
            out = root / f"compared-{size}-{CONTENDERS.index(contender)}"
            cpu_seconds(contender.command(root, urls, out), environment)
            found[contender.name] = pictures(contender, out)
        theirs = found[PEER.name]
        for contender in OURS:
            pairs = [(found[contender.name][key], theirs[key]) for key in theirs]
            same = sum(psnr(*pair) == 100 for pair in pairs)
            worst, middle = min(psnr(*p) for p in pairs), median(psnr(*p) for p in pairs)
            print(f"{size} {contender.name}: PSNR {middle:.1f} dB, worst {worst:.1f}; {same} of {len(pairs)} identical")


def measure(root: Path, peer: str, count: int, rounds: int, kind: tuple[str, str]) -> None:
    """What an image of one kind costs with each contender, in turns; medians, and the ratio to the peer's."""
    counts = (count // 5, count)
    lists = [write_list(root, *kind, n) for n in counts]
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        for contender in CONTENDERS:
            spent.setdefault(contender.name, []).append(per_image(contender, root, lists, counts, peer))
    base = median(spent[PEER.name])
    for name, costs in spent.items():
        ms = " ".join(f"{cost:.2f}" for cost in costs)
        ratio = median(costs) / base
        print(f"{' '.join(kind)} {name}: {median(costs):.2f} CPU-ms ({ms}), {ratio:.2f}x", flush=True)


def main(peer: str, count: int = 2500, rounds: int = 3, *kinds: str) -> None:
    """Measure, and print medians with their ratio; without ``kinds`` all of them, and how alike the pictures are."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)  # nginx's worker is another user where this one is root
        make_images(root)
        make_certificate(root)
        with serving(root):
            for kind in KINDS:
                if not kinds or "-".join(kind) in kinds:
                    measure(root, peer, count, rounds, kind)
            if not kinds:
                compare(root, peer)


if __name__ == "__main__":
    folder, count, rounds, *wanted = [*sys.argv[1:], *("", "2500", "3")[len(sys.argv) - 1 :]]
    main(folder, int(count), int(rounds), *wanted)
