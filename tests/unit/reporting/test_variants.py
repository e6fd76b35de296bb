from pathlib import Path
from typing import Any

from bapo.reporting.runs import RunRecord
from bapo.reporting.variants import differing_settings, flat_settings, group_runs


def run_of(algorithm: str, seed: int, **adaptation: Any) -> RunRecord:
    recipe = {"algorithm": algorithm, "seed": seed, "steps": 5, "adaptation": adaptation}
    return RunRecord(Path(f"{algorithm}-{seed}"), recipe, "", {}, (), (), (), None)


def test_seeds_of_one_recipe_are_one_variant_and_bapo_comes_first() -> None:
    runs = [run_of("dapo", 0), run_of("bapo", 1), run_of("dapo", 1), run_of("bapo", 0)]
    variants = group_runs(runs)
    assert [(variant.label, len(variant.runs)) for variant in variants] == [
        ("bapo", 2),
        ("dapo", 2),
    ]


def test_the_same_algorithm_with_other_settings_is_not_another_seed() -> None:
    runs = [run_of("bapo", 0, retry_every=5), run_of("bapo", 1, retry_every=2)]
    assert [variant.label for variant in group_runs(runs)] == [
        "bapo (retry_every=5)",
        "bapo (retry_every=2)",
    ]


def test_a_label_names_at_most_two_settings() -> None:
    runs = [run_of("bapo", 0, a=1, b=1, c=1), run_of("bapo", 0, a=2, b=2, c=2)]
    assert group_runs(runs)[1].label == "bapo (a=2, b=2, …)"


def test_trackers_and_device_do_not_make_another_variant() -> None:
    one, two = run_of("bapo", 0), run_of("bapo", 1)
    other = dict(two.recipe) | {"logging": {"project": "mine"}, "model": {"device": "cuda"}}
    two = RunRecord(two.path, other, "", {}, (), (), (), None)
    assert len(group_runs([one, two])) == 1


def test_settings_are_flat_text_and_only_differing_ones_are_listed() -> None:
    one = flat_settings(
        {"seed": 0, "adaptation": {"retry": True, "band": [0.0, 0.25], "cap": None}}
    )
    assert one == {
        "seed": "0",
        "adaptation.retry": "true",
        "adaptation.band": "[0.0, 0.25]",
        "adaptation.cap": "none",
    }
    two = one | {"adaptation.retry": "false"}
    del two["adaptation.cap"]
    assert differing_settings([one, two]) == ["adaptation.retry", "adaptation.cap"]
    assert differing_settings([one, one]) == []
