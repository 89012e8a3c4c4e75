"""The family's recipe: a base that has seen everything a little, and a fine-tune for each task."""

import hashlib

import torch
import torch.nn.functional as F

import scenes
import tower

#: Steps, images a step, learning rates.
BASE = dict(steps=2000, batch=128, rate=3e-3, muon=0.03)
TASK = dict(steps=120, batch=96, rate=5e-4)

#: Labelled images a class for few-shot methods; images of a task for validation and for the test.
SHOTS, VAL, TEST = 16, 240, 400

#: The embedding's length, and how logits are scaled: as in CLIP, 100 times cosines would be; the base learns it here.
EMBEDDING = 64


def seed(*what):
    """A generator of its own for each purpose: what is made does not depend on what else is."""
    number = int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


def batches(domain, split, how, size, draw):
    """Endless (images, labels) of one domain, every class as often as another."""
    drawings, labels = domain.splits[split]
    of_class = [(labels == c).nonzero()[0] for c in range(len(domain.classes))]
    while True:
        classes = torch.randint(len(of_class), (size,), generator=draw)
        places = torch.rand(size, generator=draw)
        chosen = [of_class[c][int(p * len(of_class[c]))] for c, p in zip(classes.tolist(), places.tolist())]
        yield scenes.images(drawings[chosen], how, draw), classes


def all_domains(domains, size, draw):
    """Endless (images, labels) of all domains at once, by their numbers of classes; labels count through them."""
    first, offsets = 0, []
    for domain in domains:
        offsets.append(first)
        first += len(domain.classes)
    sizes = [max(1, round(size * len(domain.classes) / first)) for domain in domains]
    of = [batches(domain, "train", scenes.scene(domain.name), n, draw) for domain, n in zip(domains, sizes)]
    while True:
        parts = [next(one) for one in of]
        yield torch.cat([p for p, _ in parts]), torch.cat([y + o for (_, y), o in zip(parts, offsets)])


def base(domains, how=BASE, each=lambda step, loss: None):
    """The base and the class embeddings that it was trained against, scaled: every task's head, [classes, embedding].

    All classes of all domains are told apart at once, as CLIP tells captions; a head takes a domain's rows of them.
    """
    torch.manual_seed(0)
    visual = tower.Visual(embedding=EMBEDDING)
    count = sum(len(domain.classes) for domain in domains)
    words = torch.nn.Parameter(torch.randn(count, EMBEDDING))
    scale = torch.nn.Parameter(torch.tensor(10.0).log())

    def head(embeds):
        return scale.exp().clamp(max=100) * embeds @ F.normalize(words, dim=-1).T

    stream = all_domains(domains, how["batch"], seed("base"))
    tower.train(visual, head, stream, how["steps"], how["rate"], muon=how["muon"],
                more=[words, scale], each=each)
    weight = (scale.exp() * F.normalize(words, dim=-1)).detach()
    parts = weight.split([len(domain.classes) for domain in domains])
    return visual, {domain.name: part.clone() for domain, part in zip(domains, parts)}


def finetuned(base_weights, domain, weight, how=TASK):
    """The base, trained on a task's own images with its head left as it is: the weights."""
    torch.manual_seed(0)
    visual = tower.load(tower.Visual(embedding=EMBEDDING), base_weights)
    scene = scenes.of_task(domain.name)
    stream = batches(domain, "train", scene, how["batch"], seed("task", domain.name))
    tower.train(visual, lambda e: e @ weight.T, stream, how["steps"], how["rate"])
    return tower.state(visual)


def drawn(domain, how, splits):
    """Images of a domain, [n] of each split that is named, every class as often as another: {split: (images, labels)}."""
    # The test was drawn after scenes, recipe and coefficients had been decided on, hence a seed of its own.
    names = {"val": "val", "test": "the test of the camera"}
    return {split: next(batches(domain, split, how, count, seed("images", domain.name, names[split])))
            for split, count in splits.items()}


def control_images(domain):
    """{split: (images, labels)} of a domain that is no task, as the base sees it: no camera."""
    return drawn(domain, scenes.scene(domain.name), {"val": VAL, "test": TEST})


def evaluation_images(domain):
    """{split: (images, labels)} of a task: `train` are the shots (of training and validation makers), `val`, `test`."""
    how = scenes.of_task(domain.name)
    made = drawn(domain, how, {"val": VAL, "test": TEST})
    draw, halves = seed("images", domain.name, "train"), []
    for split in ("train", "val"):
        drawings, labels = domain.splits[split]
        wanted = torch.arange(len(domain.classes)).repeat_interleave(SHOTS // 2)
        of_class = [(labels == c).nonzero()[0] for c in range(len(domain.classes))]
        chosen = [of_class[c][int(torch.randint(len(of_class[c]), (1,), generator=draw))] for c in wanted.tolist()]
        halves.append((scenes.images(drawings[chosen], how, draw), wanted))
    both = [torch.cat(part) for part in zip(*halves)]
    turn = torch.argsort(both[1], stable=True)
    made["train"] = both[0][turn], both[1][turn]
    return made
