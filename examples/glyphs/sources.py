"""Where the drawings come from: glyphs of installed fonts, icons of installed npm packages, scikit-learn's digits.

A drawing is a [48, 48] u8 coverage (0 paper, 255 ink), its longer side 40 pixels, in the middle. A domain is a set of
classes, drawn by several *makers* (families of faces, sets of icons, for the digits single images). Makers, and never
drawings, are divided into training, validation and test; makers that draw alike count as one, since many families hold
glyphs that were copied from another.
"""

import hashlib
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, INK = 48, 40

#: The domains that tasks are made of, and their classes.
SCRIPTS = {
    "Greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "Hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "Arabic": "ابجدرسصطعفقكلمنهوي",
    "Devanagari": "कखगघचछजटठडतथदधनपफबमयरलवशसह",
    "Hiragana": "あいうえおかきくけこさしすせそたちつてとなにぬねの",
    "Georgian": "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ",
}

#: What the base sees besides, so that it is no model of the tasks alone.
OTHERS = {
    "Latin": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "Cyrillic": "БГДЖЗИЛПУФЦЧШЩЪЫЬЭЮЯ",
    "Thai": "กขคงจชซญฐฒณดตถทธนบปผฝพฟมยรลวศสหอฮ",
    "Katakana": "アイウエオカキクケコサシスセソタチツテトナニヌネノ",
    "Hangul": "가나다라마바사아자차카타파하",
}

#: Concepts, and what they are called in the packages; the first name that a package has is taken.
CONCEPTS = {
    "home": "home home-2 house home-simple", "heart": "heart", "star": "star", "bell": "bell notifications",
    "camera": "camera", "calendar": "calendar calender calendar-blank", "lock": "lock lock-closed lock-closed-outline",
    "search": "search magnify magnifier magnifying-glass", "trash": "trash trash-can delete trash-2",
    "user": "user person account people", "mail": "mail email envelope envelope-simple envelope-open",
    "phone": "phone call telephone phone-call", "cloud": "cloud cloudy",
    "sun": "sun sunny white-balance-sunny sun-light",
    "moon": "moon half-moon weather-night moon-waning-crescent", "key": "key vpn-key", "gift": "gift",
    "clock": "clock time", "eye": "eye", "flag": "flag", "book": "book book-open",
    "printer": "printer print printing-page", "umbrella": "umbrella", "settings": "settings cog gear settings-2",
    "music": "music music-note musical-note musical-notes music-tone-alt music-double-note", "tag": "tag pricetag",
    "image": "image picture media-image photo", "folder": "folder",
    "link": "link", "rocket": "rocket rocket-launch space-rocket rocket-3-start",
}

#: npm packages: folders of .svg, with what stands before and behind a name there.
ICONS = {
    "feather-icons": [("dist/icons", "", "")],
    "lucide-static": [("icons", "", "")],
    "bootstrap-icons": [("icons", "", ""), ("icons", "", "-fill")],
    "heroicons": [("24/outline", "", ""), ("24/solid", "", "")],
    "ionicons": [("dist/svg", "", "-outline"), ("dist/svg", "", "-sharp"), ("dist/svg", "", "")],
    "@primer/octicons": [("build/svg", "", "-24"), ("build/svg", "", "-fill-24")],
    "iconoir": [("icons/regular", "", ""), ("icons/solid", "", "")],
    "@mdi/svg": [("svg", "", ""), ("svg", "", "-outline")],
    "boxicons": [("svg/regular", "bx-", ""), ("svg/solid", "bxs-", "")],
    "eva-icons": [("fill/svg", "", ""), ("outline/svg", "", "-outline")],
    "majesticons": [("line", "", "-line"), ("solid", "", "")],
    "jam-icons": [("svg", "", ""), ("svg", "", "-f")],
    "teenyicons": [("outline", "", ""), ("solid", "", "")],
    "@phosphor-icons/core": [("assets/regular", "", ""), ("assets/bold", "", "-bold"), ("assets/fill", "", "-fill")],
    "simple-line-icons": [("src/svgs", "", "")],
    "@tabler/icons": [("icons/outline", "", ""), ("icons/filled", "", "")],
}

#: Fonts whose glyphs are stand-ins for what they lack, or ornaments.
LEFT_OUT = ("Caslon", "Caliban", "SetoFont", "Linux Biolinum Keyboard", "Linux Libertine Initials",
             "Amiri Quran Colored",            "Keter Aram Tsova", "Noto Nastaliq", "Noto Rashi", "Trashim", "Symbola", "Ouhod", "KacstPen")

#: The most makers of a domain, and faces of a maker.
MAKERS, FACES = 28, 4


def framed(ink):
    """The part of `ink` [H, W] that is not blank, in the middle of [48, 48]; `None` where all is."""
    rows, columns = np.flatnonzero(ink.max(1) > 40), np.flatnonzero(ink.max(0) > 40)
    if rows.size == 0:
        return None
    part = Image.fromarray(ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1])
    scale = INK / max(part.size)
    size = [max(1, round(side * scale)) for side in part.size]
    page = Image.new("L", (SIDE, SIDE))
    page.paste(part.resize(size, Image.LANCZOS), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(page)


def glyphs(path, characters):
    """The characters as the face at `path` draws them; `None` where one is missing, blank, or drawn as another is."""
    font = ImageFont.truetype(path, 72)
    drawings = []
    for character in characters:
        page = Image.new("L", (180, 180))
        try:
            ImageDraw.Draw(page).text((50, 40), character, fill=255, font=font)
        except (OSError, ValueError):
            return None
        drawings.append(framed(np.asarray(page)))
        if drawings[-1] is None:
            return None
    # A box for all that is missing, or one drawing for small and capital letters.
    return None if len({drawing.tobytes() for drawing in drawings}) < len(drawings) else drawings


def faces(root="/usr/share/fonts"):
    """Every face: (family, path, the characters that it has), in the order of their paths."""
    from fontTools.ttLib import TTFont

    for path in sorted(Path(root).rglob("*")):
        if path.suffix.lower() not in (".ttf", ".otf", ".ttc"):
            continue
        font = TTFont(path, lazy=True, fontNumber=0 if path.suffix.lower() == ".ttc" else -1)
        family = font["name"].getBestFamilyName() or path.stem
        if not family.startswith(LEFT_OUT):
            yield family, str(path), set(font.getBestCmap() or {})


def of_fonts(scripts, every_face):
    """{domain: {maker: [drawings of one face, …]}}, a face's drawings in the order of the classes; and the files of
    each maker."""
    domains, files = {}, defaultdict(list)
    for domain, characters in scripts.items():
        codes = {ord(character) for character in characters}
        makers = defaultdict(list)
        for family, path, has in every_face:
            if codes <= has and len(makers[family]) < FACES:
                drawn = glyphs(path, characters)
                if drawn:
                    makers[family].append(np.stack(drawn))
                    files[family].append(path)
        makers = {maker: drawn for maker, drawn in makers.items() if drawn}
        domains[domain] = makers
    return domains, files


def of_icons(modules):
    """{package: [drawings of one style, …]}; a concept that the style lacks is `None` there."""
    import resvg_py

    makers = {}
    for package, styles in ICONS.items():
        for folder, before, behind in styles:
            drawn = []
            for names in CONCEPTS.values():
                paths = (Path(modules, package, folder, f"{before}{name}{behind}.svg") for name in names.split())
                path = next((path for path in paths if path.is_file()), None)
                drawn.append(None if path is None else rasterised(resvg_py, path))
            if sum(one is not None for one in drawn) >= len(CONCEPTS) // 3:
                makers.setdefault(package, []).append(drawn)
    return makers


def rasterised(resvg_py, path):
    import io

    picture = resvg_py.svg_to_bytes(svg_path=str(path), width=144, height=144)
    return framed(np.asarray(Image.open(io.BytesIO(bytes(picture))).convert("RGBA"))[..., 3])


def of_digits():
    """scikit-learn's handwritten digits: {number of the image: [one drawing, the other classes `None`]}."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    makers = {}
    for number, (image, label) in enumerate(zip(digits.images, digits.target)):
        large = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize((INK, INK), Image.BICUBIC)
        drawn = [None] * 10
        drawn[label] = framed(np.asarray(large))
        makers[number] = [drawn]
    return makers


def alike(makers):
    """Groups of makers that draw alike: of copied glyphs, in whatever weight, less than 3 % of the ink differs."""
    names = list(makers)
    small = {name: [np.asarray(face, np.float32) for face in makers[name]] for name in names}
    group = {name: name for name in names}

    def root(name):
        while group[name] != name:
            name = group[name]
        return name

    for i, a in enumerate(names):
        for b in names[:i]:
            if root(a) == root(b):
                continue
            pairs = ((x, y) for x in small[a] for y in small[b])
            if any(np.median(np.abs(x - y).sum((1, 2)) / np.maximum(x.sum((1, 2)), 1)) < 0.12 for x, y in pairs):
                group[root(a)] = root(b)
    groups = defaultdict(list)
    for name in names:
        groups[root(name)].append(name)
    return list(groups.values())


def order(name):
    """A pseudo-random place that does not change when other makers come or go."""
    return hashlib.sha256(str(name).encode()).digest()


def divided(groups):
    """The makers of (training, validation, test): about 5/9, 1/9 and 3/9 of the groups."""
    groups = sorted(groups, key=lambda group: order(min(map(str, group))))
    test = max(2, round(len(groups) * 3 / 9))
    val = max(1, round(len(groups) / 9))
    parts = groups[test + val:], groups[test:test + val], groups[:test]
    return [[maker for group in part for maker in group] for part in parts]


class Domain:
    """A domain's drawings: for each split, the drawings [n, 48, 48] and their classes [n]."""

    def __init__(self, name, classes, makers, groups):
        self.name, self.classes, self.splits, self.makers, self.files = name, classes, {}, {}, []
        for split, part in zip(("train", "val", "test"), divided(groups)):
            drawings, labels = [], []
            for maker in part:
                for face in makers[maker]:
                    there = [(drawing, label) for label, drawing in enumerate(face) if drawing is not None]
                    drawings += [drawing for drawing, _ in there]
                    labels += [label for _, label in there]
            self.splits[split] = np.stack(drawings).astype(np.uint8), np.array(labels)
            self.makers[split] = sorted(map(str, part))

    def missing(self):
        """Classes that a split lacks."""
        return {split: [self.classes[i] for i in range(len(self.classes)) if i not in labels]
                for split, (_, labels) in self.splits.items() if len(set(labels)) < len(self.classes)}


def domains(modules):
    """The domains of tasks, and the others."""
    every_face = list(faces())
    found, files = of_fonts({**SCRIPTS, **OTHERS}, every_face)
    both = {}
    for name, makers in found.items():
        groups = sorted(alike(makers), key=lambda group: order(min(group)))[:MAKERS]
        both[name] = Domain(name, list({**SCRIPTS, **OTHERS}[name]), makers, groups)
        both[name].files = sorted({path for group in groups for maker in group for path in files[maker]})
    icons = of_icons(modules)
    both["Icons"] = Domain("Icons", list(CONCEPTS), icons, [[maker] for maker in icons])
    digits = of_digits()
    both["Digits"] = Domain("Digits", [str(i) for i in range(10)], digits, [[maker] for maker in digits])
    tasks = [*SCRIPTS, "Icons", "Digits"]
    return [both[name] for name in tasks], [both[name] for name in OTHERS]


if __name__ == "__main__":
    import sys
    for domain in sum(domains(sys.argv[1]), []):
        counts = {split: (len(labels), len(domain.makers[split])) for split, (_, labels) in domain.splits.items()}
        print(domain.name, len(domain.classes), counts, domain.missing() or "")
        if domain.name != "Digits":
            print("   test:", "; ".join(domain.makers["test"]))
