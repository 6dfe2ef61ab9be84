"""The demo's page over a stand-in that answers at once: for the tests, for tests/load_demo.py, and by hand:

python tests/demo_stand_in.py 7860
"""

import csv
import json
import sys
import time
from types import SimpleNamespace

import numpy as np
from PIL import Image

from unifashion.data.images import fit_image
from unifashion.data.stores import FileStore, decode
from unifashion.data.tryon_conditions import fit_map
from unifashion.demo_models import drawn_shop


class StandIn:
    "Finds by words in captions and by mean colours, paints the mask in the garment's mean colour."

    size = (128, 96)
    styles = ("short", "professional", "key points")

    def __init__(self, lacking=None, seconds=0.0):
        self.lacking = lacking or {}
        self.seconds = seconds  # that a step of painting takes
        self.folder = drawn_shop(2, 128, 96)
        with open(self.folder / "catalogue.csv", encoding="utf-8") as table:
            self.texts = {f"images/{row['image']}": row["text"] for row in csv.DictReader(table)}
        self.names = set(self.texts)
        self.means = {name: self.picture(name).mean((0, 1)) for name in self.texts}

    def picture(self, name):
        return FileStore(self.folder).read(name)

    def hits(self, scores, k):
        best = sorted(scores, key=lambda name: -scores[name])[:k]
        return [SimpleNamespace(name=name, score=scores[name], text=self.texts[name]) for name in best]

    def search(self, query, k):
        if not isinstance(query, str):
            own = query.mean((0, 1))
            near = {name: 1 - np.abs(mean - own).mean() / 255 for name, mean in self.means.items()}
            return self.hits(near, k)
        words = set(query.split())
        scores = {name: len(words & set(text.split())) / len(words) for name, text in self.texts.items()}
        return self.hits(scores, k)

    def compose(self, picture, text, k):
        return self.search(text, k)

    look_up = search

    def caption(self, picture, style):
        return f"{style}: a picture of {picture.shape[1]} x {picture.shape[0]}"

    def person(self, photo, points, category, mask):
        person = fit_image(decode(photo.read_bytes()), *self.size, "pad")
        where = np.zeros(self.size, bool) if mask is None else fit_map(mask, *self.size, "stretch")
        if points and mask is None:
            json.loads(points.read_text(encoding="utf-8"))
            top, bottom = {"upper_body": (36, 70), "lower_body": (64, 100), "dresses": (36, 100)}[category]
            where[top:bottom, 22:74] = True
        return SimpleNamespace(person=person, mask=where)

    def outline(self, garment):
        return np.where(garment.mean(-1, keepdims=True) < 128, np.uint8([0, 0, 0]), np.uint8([255, 255, 255]))

    def painted(self, own, colour, steps, seed, guidance, told):
        for step in range(steps):
            time.sleep(self.seconds)
            told(step + 1, steps)
        return Image.fromarray(np.where(own.mask[..., None], np.uint8(colour), own.person))

    def try_on(self, own, garment, **how):
        return self.painted(own, garment.mean((0, 1)), **how)

    def design(self, own, text, sketch, **how):
        return self.painted(own, (40, 120, 60), **how)

    def edit(self, own, text, garments, **how):
        colours = [garment.mean((0, 1)) for garment in garments]
        return self.painted(own, np.mean(colours, 0) if colours else (90, 90, 90), **how)


if __name__ == "__main__":
    from unifashion.demo import serve

    serve(StandIn(seconds=0.02), int(sys.argv[1]))
