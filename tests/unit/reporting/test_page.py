import base64
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bapo.errors import RunFolderError
from bapo.reporting import summarise_run, write_report
from tests.run_folder_builder import build_comparison, build_run, rewrite_lines

FIGURES = [
    "Accuracy on held-out problems",
    "What each batch was made of",
    "How the training problems moved",
    "Problems the base always failed",
    "What it cost",
    "The bound, and what was measured",
    "Training health",
]


class Page(HTMLParser):
    """What a test asks of the HTML: its tags in order, attributes, headings and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def read_page(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def svg_of(image: dict[str, str | None]) -> ET.Element:
    source = image["src"] or ""
    assert source.startswith("data:image/svg+xml;base64,")
    return ET.fromstring(base64.b64decode(source.split(",", 1)[1]))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    return write_report([build_run(folder / "run")], folder / "report.html")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    runs = build_comparison(folder / "runs", steps=8, held_out=24, training=24)
    return write_report([runs], folder / "deep" / "report.html")


def test_a_finished_run_has_every_figure(single: Path) -> None:
    page = read_page(single)
    assert [heading for heading in page.headings if heading in FIGURES] == FIGURES
    assert "What it writes" in page.headings
    assert len(page.images) == len(FIGURES)


def test_a_comparison_has_every_figure_and_its_table(compared: Path) -> None:
    page = read_page(compared)
    assert page.headings[0] == "Side by side"
    assert [heading for heading in page.headings if heading in FIGURES] == FIGURES
    assert re.search(r"\w+ ended highest with [\d.]+ % ?; next is \w+", page.text)
    assert "3 seeds each" in page.text
    assert page.text.count("Full recipe of") == 3


@pytest.mark.parametrize("which", ["single", "compared"])
def test_the_page_needs_neither_network_nor_script(
    which: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(which)
    page = read_page(path)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {t for t, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policies = [a.get("content") for _, a in page.tags if a.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    style = path.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert path.stat().st_size < 3_000_000


def test_every_image_is_whole_has_words_and_refers_to_nothing_outside(compared: Path) -> None:
    for image in read_page(compared).images:
        assert len(image["alt"] or "") > 40
        for element in svg_of(image).iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith(("#", "data:"))


def test_figures_carry_text_in_the_readers_font(single: Path) -> None:
    svg = svg_of(read_page(single).images[0])
    texts = [node for node in svg.iter() if node.tag.endswith("}text")]
    assert any("held-out pass@1" in "".join(node.itertext()) for node in texts)
    assert all("DejaVu" not in node.attrib.get("style", "") for node in texts)
    assert all("system-ui" in node.attrib.get("style", "") for node in texts)


def test_the_headline_has_the_measured_numbers_beside_their_control(single: Path) -> None:
    page = read_page(single)
    summary = json.loads((single.parent / "run" / "summary.json").read_text())
    for name in ("held_out_before", "held_out_after"):
        assert f"{100 * summary[name]:.1f} %" in page.text
    solved = 100 * summary["unsolved_solved"] / summary["unsolved"]
    control = 100 * summary["unsolved_solved_by_base"] / summary["unsolved"]
    assert f"{solved:.1f} % of the always-failed training problems now solved" in page.text
    assert f"the base, asked again: {control:.1f} %" in page.text
    assert f"{summary['rollouts']:,}".replace(",", " ") in page.text


def test_the_same_runs_give_the_same_page(single: Path) -> None:
    again = write_report([single.parent / "run"], single.parent / "again.html")
    assert again.read_bytes() == single.read_bytes()


def test_an_algorithm_that_does_worse_is_shown_below(compared: Path) -> None:
    table = compared.read_text(encoding="utf-8").split("<table")[1].split("</table>")[0]
    rows = re.findall(r"<tr><td class.*?</tr>", table)
    after = [float(re.findall(r"<td>([\d.]+)\u00a0%</td>", row)[1]) for row in rows]
    assert len(after) == 3
    assert after == sorted(after, reverse=True)


def test_hostile_text_in_a_run_does_not_reach_the_page_or_the_figures(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=4)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    recipe = (other / "recipe.yaml").read_text()
    recipe = recipe.replace(
        "algorithm: bapo", 'algorithm: "$x^</svg><script>y</script>\\e[31m\\u202e"'
    )
    (other / "recipe.yaml").write_text(recipe + "# <script>z</script>\n")
    rewrite_lines(other / "examples.jsonl", {"completion": "<script>w</script>\x1b[2J\ud800"})
    path = write_report([run, other], tmp_path / "report.html")
    page = read_page(path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\x1b" not in page.text
    assert "\u202e" not in path.read_text(encoding="utf-8")
    for image in page.images:
        assert not [node for node in svg_of(image).iter() if node.tag.endswith("}script")]


def test_the_verifiers_latencies_and_its_slowest_answers_are_shown(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=2)
    slow = {"milliseconds": 4321.0, "status": "timeout", "completion": "<script>v</script>\x1b[2J"}
    report = {
        "verifier": "mine.py:verify",
        "since_step": 1,
        "verdicts_ok": 90,
        "verdicts_timeout": 1,
        "verifier_milliseconds_p50": 0.25,
        "verifier_milliseconds_p99": 12.0,
        "slowest": [slow],
    }
    (run / "verifier.json").write_text(json.dumps(report))
    table = summarise_run(run).verifier
    assert ("50 % took at most", "0.250 ms", "") in table.rows
    assert ("95 % took at most", "–", "") in table.rows
    assert ("99 % took at most", "12.0 ms", "") in table.rows
    assert table.rows[-1] == ("slow, timeout", "4321 ms", "<script>v</script>\\x1b[2J")
    page = read_page(write_report([run], tmp_path / "report.html"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>v</script>\\x1b[2J" in page.text
    assert "Since the run was resumed after step 1." in page.text


def test_a_run_of_one_step_has_a_report(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1, held_out=2, training=2)
    assert "What it cost" in read_page(write_report([run], tmp_path / "r.html")).headings


def test_a_run_without_a_final_evaluation_says_so(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=3, planned_steps=20, finished=False)
    page = read_page(write_report([run], tmp_path / "report.html"))
    assert "not evaluated after training yet" in page.text
    assert "3 of 20" in page.text
    assert "1 of 1 runs had not ended" in page.text
    assert "How the training problems moved" not in page.headings
    assert "always-failed" not in page.text


def test_a_run_without_training_prompts_has_no_figures_of_them(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", training=0)
    summary = json.loads((run / "summary.json").read_text())
    summary |= dict.fromkeys(("unsolved", "unsolved_solved", "unsolved_solved_by_base"))
    (run / "summary.json").write_text(json.dumps(summary))
    page = read_page(write_report([run], tmp_path / "report.html"))
    assert "Problems the base always failed" not in page.headings
    assert "How the training problems moved" not in page.headings
    assert "Accuracy on held-out problems" in page.headings


def test_metrics_that_are_null_leave_their_panels_out(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    names = ["entropy", "kl_behavior", "grad_norm", "reuse_low", "reuse_high", "policy_strength"]
    rewrite_lines(run / "metrics.jsonl", dict.fromkeys(names))
    page = read_page(write_report([run], tmp_path / "report.html"))
    health = svg_of(page.images[-1])
    text = " ".join("".join(node.itertext()) for node in health.iter() if node.tag.endswith("text"))
    assert "staleness" in text
    assert "entropy" not in text
    assert "reuse band" not in text


def test_a_run_before_its_first_step_claims_nothing(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1, finished=False)
    for name in ("metrics.jsonl", "evaluation.jsonl", "examples.jsonl", "ledger.jsonl"):
        (run / name).unlink()
    page = read_page(write_report([run], tmp_path / "report.html"))
    assert page.images == []
    assert "nothing here says whether the policy got better" in page.text
    assert not re.search(r"\d %", page.text.split("Full recipe")[0])


def test_seeds_that_are_not_equally_far_are_shown_with_what_they_have(tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "seed-0", steps=8, seed=0)
    build_run(tmp_path / "runs" / "seed-1", steps=3, planned_steps=8, seed=1, finished=False)
    page = read_page(write_report([tmp_path / "runs"], tmp_path / "report.html"))
    assert "2 seeds" in page.text
    assert "Accuracy on held-out problems" in page.headings
    assert "1 of 2 runs had not ended" in page.text


def test_fresh_groups_without_signal_are_told_apart_where_the_filter_is_off(
    tmp_path: Path,
) -> None:
    run = build_run(tmp_path / "run", algorithm="grpo", steps=4)
    rewrite_lines(
        run / "metrics.jsonl",
        {"groups_fresh": 16, "groups_all_wrong": 10, "groups_all_right": 1, "groups_surplus": 0},
    )
    page = read_page(write_report([run], tmp_path / "report.html"))
    assert "on average 5.0 fresh, 0.0 retried, 0.0 reused, 11.0 without signal, 0.0 missing" in (
        page.images[1]["alt"] or ""
    )


def test_output_may_be_a_folder_and_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    out = tmp_path / "out"
    out.mkdir()
    assert write_report([run], out) == out / "report.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report([run], tmp_path / "file" / "report.html")
    assert [path.name for path in out.iterdir()] == ["report.html"]


def test_reporting_never_imports_torch() -> None:
    code = "import sys, bapo.reporting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
