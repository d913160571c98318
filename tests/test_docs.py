"""Code in README and docs is a file of docs/src, to the letter, and it runs."""

import re
import runpy
from pathlib import Path

import pytest
import torch

import limbeck
from limbeck import registry

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "template" not in path.name),
]
SHOWN = re.compile(r"<!-- (docs/src/\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)
BLOCKS = [(page, path, code) for page in PAGES for path, code in SHOWN.findall(page.read_text())]


@pytest.mark.parametrize(("page", "path", "code"), BLOCKS, ids=[f"{page.name}:{path}" for page, path, _ in BLOCKS])
def test_pages_show_the_files(page: Path, path: str, code: str) -> None:
    assert code.strip() == (ROOT / path).read_text().strip()


def test_every_python_block_of_the_pages_is_a_file() -> None:
    for page in PAGES:
        assert page.read_text().count("```python") == sum(shown == page for shown, _, _ in BLOCKS), page


def test_every_file_is_shown() -> None:
    assert {path for _, path, _ in BLOCKS} == {f"docs/src/{file.name}" for file in (ROOT / "docs/src").glob("*.py")}


LINK = re.compile(r"\[[^]]*\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        to = page.parent / path if path else page
        assert to.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", to.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, f"{path}#{anchor}"


def test_ten_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "docs/src/ten_lines.py"))
    assert "'agreement'" in capsys.readouterr().out


def test_compositions_print_as_their_code() -> None:
    made = runpy.run_path(str(ROOT / "docs/src/compose.py"))
    assert repr(made["method"]) == "CE() + 0.9 * KL(tau=4.0)"
    for name in ("method", "later", "sure", "staged"):
        assert registry.read(repr(made[name])) == made[name]


def test_own_method_is_registered_and_trains() -> None:
    try:
        runpy.run_path(str(ROOT / "docs/src/own_method.py"))
        run = limbeck.Run(
            student=limbeck.Net(torch.nn.Linear(4, 3)),
            teacher=torch.nn.Linear(4, 3),
            data=(torch.rand(32, 4), torch.randint(3, (32,))),
            method=limbeck.make("centered_mse", weight=0.5),
            epochs=3,
        )
        losses = [row["terms"]["mse"] for row in run.fit()]
    finally:
        registry.METHODS.pop("centered_mse", None)
    assert losses[-1] < losses[0]


def test_generated_pages_are_up_to_date() -> None:
    pages = runpy.run_path(str(ROOT / "docs/build.py"))["pages"]()
    for path, text in pages.items():
        assert path.read_text() == text, f"run python docs/build.py: {path.name} is old"
    families = {path for path in pages if path.parent.name == "methods" and path.suffix == ".md"}
    assert families == set((ROOT / "docs/methods").glob("*.md"))


def test_record_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = runpy.run_path(str(ROOT / "docs/src/record.py"))["run"]
    assert len(run.history) == 3
