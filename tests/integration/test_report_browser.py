"""The report in a real browser, with no network."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bapo.reporting import write_report
from tests.run_folder_builder import build_comparison, build_run

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the chromium command"),
]

CHECK = """<script>addEventListener("load", () => {
  const images = [...document.images];
  const drawn = images.filter(image => image.complete && image.naturalWidth > 0);
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  document.body.dataset.outcome = `${drawn.length} of ${images.length}, wide ${wide}`;
});</script></body>"""


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Loads a page in a browser that can reach nothing, and returns its page and its console."""
    return subprocess.run(
        [
            CHROMIUM or "",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            "--virtual-time-budget=5000",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def console_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that pages wrote to the console, refusals of the content policy among them."""
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module", params=["one run", "comparison"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    build = build_run if request.param == "one run" else build_comparison
    return write_report([build(folder / "runs", steps=8)], folder / "report.html")


def test_the_report_opens_offline_without_a_word_on_the_console(report: Path) -> None:
    result = browse(report, "--dump-dom")
    assert console_of(result) == []
    assert result.stdout.count("<section>") >= 7


@pytest.mark.parametrize("width", [1200, 400])
def test_every_image_is_drawn_and_the_page_is_not_wider_than_its_window(
    report: Path, width: int
) -> None:
    html = report.read_text(encoding="utf-8")
    images = html.count("<img ")
    probed = report.with_name("probed.html")
    # The page forbids scripts; the copy that is asked for its images allows this one.
    allowed = html.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    probed.write_text(allowed.replace("</body>", CHECK), encoding="utf-8")
    result = browse(probed, "--dump-dom", f"--window-size={width},900")
    found = re.search(r'data-outcome="([^"]*)"', result.stdout)
    assert found is not None
    assert found.group(1) == f"{images} of {images}, wide false"


def test_the_check_notices_a_page_with_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>missing()</script><img src='data:image/png;base64,AAAA'></body>")
    assert len(console_of(browse(broken, "--dump-dom"))) == 1
