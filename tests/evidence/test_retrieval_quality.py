"What retrieved garments agree in with the worn one, where a text speaks and where it is silent."
from types import SimpleNamespace

import pytest

from unifashion.evidence.retrieval_quality import agreements, fitting, left_open
from unifashion.wardrobe.garments import Garment

RED = Garment("t-shirt", "red", sleeve="short", neckline="crew", fabric="cotton")
GARMENTS = {
    "worn": RED,
    "twin but for the neck": Garment("t-shirt", "red", sleeve="short", neckline="v", fabric="cotton"),
    "long": Garment("t-shirt", "red", sleeve="long", neckline="crew", fabric="cotton"),
    "blue": Garment("t-shirt", "blue", sleeve="short", neckline="crew", fabric="cotton"),
}
DATABASE = {"upper_body": list(GARMENTS)}


def asking(*phrases):
    return SimpleNamespace(garment_ids=["worn"], categories=["upper_body"], phrases=[phrases])


def test_what_fits_is_what_all_the_text_is_true_of():
    assert fitting("red tee, crew neck", list(GARMENTS.values())) == [RED, GARMENTS["long"]]
    assert fitting("no attribute at all", [RED]) == [RED]


def test_the_worn_garment_is_never_among_the_others():
    case = {own["attribute"]: own for own in agreements(asking("red tee"), [["long"]], DATABASE, GARMENTS)}
    assert case["color"]["said"] and case["color"]["fitting"] == 1
    assert case["color"]["category"] == pytest.approx(2 / 3)  # of the three others; with the worn one 3 / 4
    assert not case["sleeve"]["said"] and case["sleeve"]["fitting"] == 0.5 and case["sleeve"]["first"] == 0


def test_the_gain_is_first_less_fitting_where_the_text_is_silent():
    told = left_open(agreements(asking("red tee"), [["long"]], DATABASE, GARMENTS))
    silent = {row["attribute"]: row["first"] - row["fitting"] for row in told["rows"] if not row["said"]}
    assert silent["sleeve"] == -0.5 and silent["neckline"] == 0.5
    assert told["people"] == 1 and told["gain"][0] == pytest.approx(100 * sum(silent.values()) / len(silent))


def test_a_text_that_fits_no_other_garment_is_left_out():
    nobody = agreements(asking("red tee, crew neck, short sleeves"), [["long"]], DATABASE, GARMENTS)
    assert nobody == [] and left_open(nobody) == {"rows": [], "people": 0, "gain": None}
