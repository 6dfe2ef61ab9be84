"""What composed retrieval is compared with."""

import numpy as np
import pytest
import torch

from unifashion.evidence import composed_baselines as b
from unifashion.evidence import composed_tables as t
from unifashion.ground.composed_recall import Questions, composed_result
from unifashion.ground.core import Compose
from unifashion.models.checkpoints import seeded
from unifashion.models.foundations import train_tokenizer
from unifashion.models.qformer import QFormer
from unifashion.unified import composed_systems as systems

TOKENIZER = train_tokenizer(["is blue and should be long", "is red"], 60)


def qformer():
    with seeded(0, "test"):
        return QFormer(image_width=9, vocab=60, width=24, layers=2, heads=2, n_query=4, embed=16,
                       max_words=12)


def test_halves_are_what_phase_1_makes_of_each():
    model = qformer().eval()
    with torch.no_grad():
        pictures = model.image(torch.randn(3, 5, 9)).numpy()
    found = b.halves_of(model, ["is blue", "is red", "is red"], pictures, TOKENIZER, 12)
    rows = found.vectors()
    assert list(rows) == ["Image only", "Text only", "Sum of both"]
    assert np.allclose(np.linalg.norm(rows["Image only"], axis=1), 1, atol=1e-5)
    assert np.allclose(rows["Text only"][1], rows["Text only"][2], atol=1e-5)
    assert np.allclose(rows["Sum of both"], rows["Image only"] + rows["Text only"])


def test_questions_that_one_half_answers():
    questions = Questions(range(30), [0, 0, 0], [1, 2, 3], ["a", "b", "c"], "dress")
    first, second = np.zeros((3, 30)), np.zeros((3, 30))
    first[:, 10:] = second[:, 10:] = 1  # twenty wrong ones before each target ...
    first[0, 1] = second[1, 2] = 2      # ... but for one target of each half
    results = {name: composed_result(own, questions)
               for name, own in (("Image only", first), ("Text only", second))}
    told = t.answered_by_half(results)
    assert told["Image only"].tolist() == [True, False, False]
    assert told["either"].tolist() == [True, True, False]


def test_a_combiner_answers_with_unit_vectors(tmp_path):
    rng = np.random.default_rng(0)
    unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
    shown, said = unit(rng.normal(size=(64, 8))), unit(rng.normal(size=(64, 8)))
    data = b.CombinedQueries(range(64), shown, np.repeat(said[:, None], 4, 1), unit(shown * said)[:, None],
                             np.arange(64))
    model, history = b.train_combiner(data, Compose(steps=1, batch=32), tmp_path / "run", 0, log=False)
    with torch.no_grad():
        told = model(torch.from_numpy(shown), torch.from_numpy(said))
    assert torch.allclose(told.norm(dim=1), torch.ones(64), atol=1e-5)
    assert len(history["loss"]) == 10  # ten times our steps


def test_a_prompted_query_sees_the_picture_through_slots_alone():
    model = b.Prompted(qformer()).eval()
    ids, mask = torch.randint(6, 60, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        query, slots = model.composed(torch.randn(2, 5, 9), ids, mask)
        other, _ = model.composed(torch.randn(2, 5, 9), ids, mask)
    assert slots.shape == (2, 4, 24)
    assert not torch.allclose(query, other)


@pytest.mark.parametrize("name, itm, teachers", [
    (systems.OURS, 16, []), ("SPRC style", 0, []),
    ("UniFashion, taught by both", 16, ["language", "diffusion"]),
])
def test_systems_say_what_they_learn_from(name, itm, teachers):
    system = systems.SYSTEMS[name]
    assert system.settings(Compose()).itm_rows == itm and system.teachers == teachers
    assert ("latents" in system.lessons) == ("diffusion" in teachers)
