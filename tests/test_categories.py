import pytest

from datasets.categories import YTVOS_CATEGORIES, category_labels


def test_official_list() -> None:
    assert len(YTVOS_CATEGORIES) == len(set(YTVOS_CATEGORIES)) == 65
    assert list(YTVOS_CATEGORIES) == sorted(YTVOS_CATEGORIES)
    assert category_labels(["person", "zebra", "airplane"], 65) == {"airplane": 0, "person": 42, "zebra": 64}


def test_other_names_are_numbered_in_order() -> None:
    assert category_labels(["star", "disk", "star", "person"], 3) == {"disk": 0, "person": 1, "star": 2}


def test_class_agnostic() -> None:
    assert category_labels(["star", "disk"], 1) == {"disk": 0, "star": 0}


def test_too_few_classes() -> None:
    with pytest.raises(ValueError, match=r"model\.num_classes is 2 but the data set has 3 categories .* set it to 3"):
        category_labels(["a", "b", "c"], 2)
    with pytest.raises(ValueError, match="set it to 65"):
        category_labels(["person"], 2)
