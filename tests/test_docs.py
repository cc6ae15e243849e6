"""The code on the pages of docs/ runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ANY = Path(__file__).parents[1] / "docs" / "any-network.md"
PAGE = Path(__file__).parents[1] / "docs" / "bring-your-own-supernet.md"


@pytest.mark.slow
def test_bring_your_own_supernet_runs_and_keeps_the_laws(tmp_path):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE))
    assert sum(bool(line.strip()) for line in code.splitlines()) < 100
    (tmp_path / "test_page.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed, 1 skipped" in done.stdout
    accuracies = [float(percent) for percent in re.findall(r"([\d.]+)% on the test split", done.stdout)]
    assert len(accuracies) >= 2 and max(accuracies) > 80


def test_any_network_becomes_what_the_page_says():
    known: dict[str, Any] = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", ANY.read_text(), flags=re.DOTALL | re.MULTILINE)), known)  # noqa: S102
    space = known["supernet"].space
    (stage,) = space.stages
    assert stage.depths == (2, 3, 4) and set(map(str, stage.blocks)) == {"{'expand': (0.5, 0.75, 1.0)}"}
    assert type(known["subnet"]) is torch.nn.Sequential and len(known["subnet"]) == 6
    assert (
        type(known["small"]) is torch.nn.Sequential
        and known["plan"].cost(known["units"].kept(known["pruner"].gone)) <= 0.6
    )


def test_the_page_of_all_keys_is_that_of_the_settings():
    from experiments.settings.reference import recipe_page, recipe_schema

    page = Path(__file__).parents[1] / "docs" / "recipe.md"
    assert page.read_text() == recipe_page(), "make it again: python -m experiments.settings.reference > docs/recipe.md"
    assert (page.parent / "recipe.schema.json").read_text() == recipe_schema(), "make it again, with --schema"
    assert "| `on_damaged` |" in recipe_page() and "method `'progressive_shrinking'`" in recipe_page()


def test_links_between_the_pages_lead_somewhere():
    root = Path(__file__).parents[1]
    for page in (root / "README.md", root / "AGENTS.md", *(root / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_on_the_site_and_every_link_leads_somewhere():
    root = Path(__file__).parents[1]
    pages = {page.name: page.read_text(encoding="utf-8") for page in (root / "docs").glob("*.md")}
    on_site = set(re.findall(r": ([\w-]+\.md)$", (root / "mkdocs.yml").read_text(), re.MULTILINE))
    assert on_site == pages.keys()
    for name, text in (*pages.items(), ("../README.md", (root / "README.md").read_text(encoding="utf-8"))):
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
            assert (root / "docs" / name).parent.joinpath(link).exists(), f"{name}: {link}"
    modules = re.findall(r"^::: ([\w.]+)$", pages["api.md"], re.MULTILINE)
    assert len(modules) > 20 and all((root / f"{module.replace('.', '/')}.py").is_file() for module in modules)
