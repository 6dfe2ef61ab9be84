"What finds tell of a worn garment beyond the text: cases by hand, and who is left out."
from dataclasses import replace

import numpy as np
import pytest

from unifashion.data.retrieved_lists import query_of
from unifashion.evidence.left_open import cases_of, fitting, left_open, left_open_by_name, left_open_figure
from unifashion.ground.core import stream
from unifashion.shop.captions import noun_chunks
from unifashion.shop.phrases import agrees
from unifashion.wardrobe.garments import KINDS, Garment, check_garment
from unifashion.wardrobe.sampling import sample_garment

WORN = Garment("t-shirt", "red", sleeve="long", neckline="crew", length="regular", fit="regular",
               fabric="jersey")
FIRST = replace(WORN, neckline="v-neck", length="cropped", fabric="linen")
SECOND = replace(WORN, sleeve="short", neckline="boat", fabric="ribbed", fit="loose")
BLUE = replace(FIRST, color="blue")
OTHERS = [FIRST, SECOND, BLUE]
TEXT = "red tee"


def by_attribute(cases):
    return {case["attribute"]: case for case in cases}


def test_the_garments_exist():
    for garment in (WORN, FIRST, SECOND, BLUE):
        check_garment(garment)


@pytest.mark.parametrize("text", [TEXT, "red tee, blue tee", "long sleeves, ribbed", "nothing in particular"])
def test_what_fits_is_what_agrees(text):
    assert fitting(text, [WORN, *OTHERS]) == [own for own in (WORN, *OTHERS) if agrees(text, own)]


def test_each_that_fits_is_left_out_and_the_worn_garment_stands_in_its_place():
    told = by_attribute(cases_of(TEXT, WORN, [BLUE, FIRST, SECOND], OTHERS))
    assert "color" not in told and "kind" not in told  # said
    assert "pattern" not in told  # alike in all
    assert told["sleeve"]["fitting"] == 0  # without FIRST there is SECOND, without SECOND there is FIRST
    assert told["sleeve"]["worn"] == 0.5  # long as FIRST, not short as SECOND
    assert told["sleeve"]["category"] == pytest.approx(1 / 3)  # BLUE alone is like what is found without it


def test_an_open_attribute_may_be_settled_among_the_others_but_not_in_the_worn_garment():
    lone = replace(WORN, sleeve="short")
    others = [FIRST, replace(SECOND, sleeve="long")]
    told = by_attribute(cases_of(TEXT, lone, others, others))
    assert told["sleeve"]["worn"] == 0 and told["sleeve"]["fitting"] == 1


def test_who_is_left_out():
    assert cases_of(TEXT, WORN, [FIRST, BLUE], OTHERS) == []  # of the finds the text fits one
    twin = replace(WORN, fabric="linen")
    assert cases_of(TEXT, WORN, [twin, SECOND], [twin, SECOND]) == []  # the find is a sibling
    assert cases_of(TEXT, WORN, [FIRST, replace(FIRST, fabric="ribbed")],
                    [FIRST, replace(FIRST, fabric="ribbed")]) == []  # siblings among the others


def test_the_gain_is_a_mean_over_people_not_over_cases():
    wide = (TEXT, WORN, [FIRST, SECOND], OTHERS)
    few = [replace(WORN, neckline="v-neck", length="cropped"), replace(WORN, neckline="v-neck", fit="loose")]
    narrow = ("red tee, jersey", replace(WORN, sleeve="short"), few, few)
    each = []
    for asked in (wide, narrow):
        each.append(np.mean([case["worn"] - case["fitting"] for case in cases_of(*asked)]))
    told = left_open(*map(list, zip(wide, narrow)))
    assert len(cases_of(*wide)) != len(cases_of(*narrow))
    assert told["people"] == 2 and told["gain"][0] == pytest.approx(100 * np.mean(each))
    assert told["fit"] == 1 and told["siblings"] == 0


def test_nobody_who_counts_is_no_gain():
    told = left_open([TEXT], [WORN], [[BLUE]], [OTHERS])
    assert told == {"rows": [], "people": 0, "all": 1, "gain": None, "fit": 0, "siblings": 0}


@pytest.mark.parametrize("liking", ["common", "rare", "none"])
def test_a_search_that_knows_nothing_gains_nothing(liking):
    """The worn garment is any of those that the text fits, so that silence says nothing; whatever garments
    the search likes."""
    rng = stream(3, "nothing known")
    shop, strangers = ([sample_garment(rng, "shirt") for _ in range(600)] for _ in range(2))
    texts, worn, found = [], [], []
    while len(texts) < 300:
        text = query_of(noun_chunks(sample_garment(rng, "shirt"), rng), 1)
        fits, meant = fitting(text, shop), fitting(text, strangers)
        if len(fits) > 1 and meant:
            sign = {"common": -1, "rare": 1, "none": 0}[liking]
            texts.append(text)
            worn.append(meant[rng.integers(len(meant))])
            found.append(sorted(fits, key=lambda own: sign * usual(own)))
    low, high = left_open(texts, worn, found, [shop] * len(texts))["gain"][1:]
    assert low < 0 < high and high - low < 8


def usual(garment):
    return sum(values[0] == getattr(garment, name) for name, values in KINDS["shirt"].allowed.items())


def test_by_name_the_worn_garment_is_no_other():
    garments = {"worn": WORN, "first": FIRST, "second": SECOND, "blue": BLUE}
    told = left_open_by_name([TEXT], ["worn"], [["first", "second"]], [list(garments)], garments)
    assert told == left_open([TEXT], [WORN], [[FIRST, SECOND]], [OTHERS])


def test_the_picture_has_a_line_an_attribute():
    rows = left_open([TEXT], [WORN], [[FIRST, SECOND]], [OTHERS])["rows"]
    axes = left_open_figure(rows, "one person").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{row['attribute']} (1)" for row in rows]
