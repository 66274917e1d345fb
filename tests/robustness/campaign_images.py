"""Images of every kind, damaged ones, and folders, zips and names of every kind."""

import io
import os
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from campaign_world import Fine, World, Wrong, refused
from PIL import Image

NAMES = (
    *("[/red]", "[bold]x[/bold]", ":smile:", "\x1b[31mred", "a\tb", "two\nlines", "\r", "nul\x01", "\x7f", "\u200b"),
    *(
        "名前",
        "ñ",
        "e\u0301",
        "\u202egnp",
        "😀",
        "\udcff\udcfe",
        "x" * 240,
        " ",
        " lead",
        "trail ",
        "..x",
        "-rf",
        "--head",
    ),
    *(
        "a,b",
        'a"b',
        "a'b",
        "a=b",
        "a;b",
        "a\\b",
        "#",
        "*",
        "~",
        "$HOME",
        "%s{0}",
        "{}",
        "None",
        "nan",
        "1e5",
        "=1+1",
        "@x",
    ),
)
"""Of classes, and of files."""


def attempts(world: World, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    for told, write in ALIKE.items():
        yield f"queries {told}", partial(_alike, world, write)
    for told, spoil in DAMAGED.items():
        yield f"an image {told}", partial(_damaged, world, spoil, chance.random())
    for name in NAMES:
        yield f"a class {name!r}", partial(_named, world, name)
        if chance.random() < 0.7:
            yield f"a file {name!r}", partial(_file_named, world, name)
    for told, change in FOLDERS.items():
        yield f"a task: {told}", partial(_folder, world, change, told in SAME)
    for told, (change, spoil) in ZIPS.items():
        yield f"queries: {told}", partial(_zipped, world, change, spoil)


# -- the same pictures in other files ----------------------------------------------------------------


def _alike(world: World, write: Callable[[Image.Image, Path], None]) -> None:
    """A person sees the same in them, so the answers are the same."""
    with world.place() as place:
        for file in sorted(world.query.rglob("*.png")):
            target = place / "query" / file.relative_to(world.query)
            target.parent.mkdir(parents=True, exist_ok=True)
            write(Image.open(file).convert("L"), target.with_suffix(""))
        ended = world.classify(world.head, place / "query")
        if ended.exit_code:
            refused(ended.exit_code, ended.output, ended)
        found, known = pd.read_csv(world.csv), pd.read_csv(io.StringIO(world.answers))
        if list(found["class"]) != list(known["class"]) or (found.probability - known.probability).abs().max() > 0.02:
            raise Wrong(f"{(found['class'] == known['class']).mean():.0%} of the answers are as for the plain pictures")
    raise Fine


def _turned(
    image: Image.Image, path: Path, orientation: int, method: Image.Transpose | None, suffix: str = ".png"
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = image if method is None else image.transpose(method)
    turned.save(path.with_suffix(suffix), exif=exif)


def _behind(image: Image.Image, path: Path, background: int) -> None:
    """White is made clear, over another colour that nobody sees."""
    grey = np.asarray(image).astype(float)
    alpha = 255 - grey
    hidden = np.where(alpha > 0, 0, background).astype(np.uint8)
    stack = np.stack([hidden, hidden, hidden, alpha.astype(np.uint8)], -1)
    Image.fromarray(stack).save(path.with_suffix(".png"))


def _array(image: Image.Image, path: Path, kind: str) -> None:
    grey = np.asarray(image)
    values = {"16": grey.astype(np.uint16) * 257, "float": (grey / 255).astype(np.float32)}[kind]
    Image.fromarray(values).save(path.with_suffix(".tif" if kind == "float" else ".png"))


def _animated(image: Image.Image, path: Path, suffix: str = ".gif") -> None:
    image.save(path.with_suffix(suffix), save_all=True, append_images=[Image.new("L", image.size, 9)], duration=99)


ALIKE: dict[str, Callable[[Image.Image, Path], None]] = {
    "in colour": lambda i, p: i.convert("RGB").save(p.with_suffix(".png")),
    "with alpha": lambda i, p: i.convert("RGBA").save(p.with_suffix(".png")),
    "grey with alpha": lambda i, p: i.convert("LA").save(p.with_suffix(".png")),
    "clear where white": lambda i, p: _behind(i, p, 0),
    "clear where white, grey behind": lambda i, p: _behind(i, p, 120),
    "of a palette": lambda i, p: i.convert("P").save(p.with_suffix(".png")),
    "BMP": lambda i, p: i.save(p.with_suffix(".bmp")),
    "GIF": lambda i, p: i.save(p.with_suffix(".gif")),
    "moving": _animated,
    "TIFF": lambda i, p: i.save(p.with_suffix(".tiff")),
    "TIFF, packed": lambda i, p: i.save(p.with_suffix(".tif"), compression="tiff_lzw"),
    "WebP": lambda i, p: i.convert("RGB").save(p.with_suffix(".webp"), lossless=True),
    "JPEG 2000": lambda i, p: i.save(p.with_suffix(".jp2"), irreversible=False),
    "PGM": lambda i, p: i.save(p.with_suffix(".pgm")),
    "TGA": lambda i, p: i.save(p.with_suffix(".tga")),
    "PPM": lambda i, p: i.convert("RGB").save(p.with_suffix(".ppm")),
    "ending in capitals": lambda i, p: i.save(p.with_suffix(".PNG")),
    "JPEG": lambda i, p: i.save(p.with_suffix(".jpg"), quality=100),
    "JPEG, progressive": lambda i, p: i.save(p.with_suffix(".jpeg"), quality=100, progressive=True),
    "JPEG of inks": lambda i, p: i.convert("RGB").convert("CMYK").save(p.with_suffix(".jpg"), quality=100),
    "of 16 bits": partial(_array, kind="16"),
    "of floats": partial(_array, kind="float"),
    "turned by EXIF 6": lambda i, p: _turned(i, p, 6, Image.Transpose.ROTATE_90),
    "turned by EXIF 3": lambda i, p: _turned(i, p, 3, Image.Transpose.ROTATE_180),
    "turned by EXIF 8": lambda i, p: _turned(i, p, 8, Image.Transpose.ROTATE_270),
    "mirrored by EXIF 2": lambda i, p: _turned(i, p, 2, Image.Transpose.FLIP_LEFT_RIGHT),
    "TIFF, black on white as it says": lambda i, p: i.save(p.with_suffix(".tif"), tiffinfo={262: 0}),
    "TIFF of inks": lambda i, p: i.convert("RGB").convert("CMYK").save(p.with_suffix(".tif")),
    "TIFF of several": lambda i, p: i.save(
        p.with_suffix(".tif"), save_all=True, append_images=[Image.new("L", i.size)]
    ),
    "AVIF": lambda i, p: i.convert("RGB").save(p.with_suffix(".avif"), quality=100),
    "clear where white, by its palette": lambda i, p: i.convert("P").save(p.with_suffix(".png"), transparency=255),
    "clear where white, by one colour": lambda i, p: i.save(p.with_suffix(".png"), transparency=255),
    "PNM": lambda i, p: i.save(p.with_suffix(".pnm"), format="PPM"),
    "ICO": lambda i, p: i.save(p.with_suffix(".ico"), sizes=[i.size]),
    "PCX": lambda i, p: i.save(p.with_suffix(".pcx")),
    "turned by EXIF 6, TIFF": partial(_turned, orientation=6, method=Image.Transpose.ROTATE_90, suffix=".tif"),
    "turned by EXIF 5": partial(_turned, orientation=5, method=Image.Transpose.TRANSPOSE),
    "turned by EXIF 7": partial(_turned, orientation=7, method=Image.Transpose.TRANSVERSE),
    "turned by EXIF 99, which is nothing": partial(_turned, orientation=99, method=None),
    "with another's ending": lambda i, p: i.save(p.with_suffix(".jpg"), format="PNG"),
}


# -- damaged ones ------------------------------------------------------------------------------------


def _damaged(world: World, spoil: Callable[[Path, random.Random], None], seed: float) -> None:
    """One line that names it; or what can still be seen of it."""
    with world.place() as place:
        shutil.copytree(world.query, place / "query")
        file = sorted((place / "query").rglob("*.png"))[0]
        spoil(file, random.Random(seed))
        ended = world.classify(world.head, place / "query")
        if ended.exit_code:
            if file.name not in ended.output:
                raise Wrong(f"the file is not named: {ended.output!r}")
            refused(ended.exit_code, ended.output, ended)
        if len(pd.read_csv(world.csv)) != world.answers.count("\n") - 1:
            raise Wrong("it was left out without a word")
    raise Fine


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(file: Path, width: int, height: int, packed: bytes) -> None:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (_chunk(b"IHDR", head), _chunk(b"IDAT", packed), _chunk(b"IEND", b""))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _again(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


CUT = ("JPEG", "JPEG2000", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "TGA", "PPM")


def _cut_as(file: Path, kind: str) -> None:
    whole = io.BytesIO()
    Image.open(file).convert("RGB").save(whole, kind)
    _again(file, whole.getvalue()[: len(whole.getvalue()) // 2])


def _with_chunk(file: Path, name: bytes, content: bytes) -> None:
    raw = file.read_bytes()
    _again(file, raw[:33] + _chunk(name, content) + raw[33:])


DAMAGED: dict[str, Callable[[Path, random.Random], None]] = {
    "that is empty": lambda f, c: _again(f, b""),
    "of noise": lambda f, c: _again(f, c.randbytes(500)),
    "cut in its head": lambda f, c: _again(f, f.read_bytes()[:20]),
    "cut in its middle": lambda f, c: _again(f, f.read_bytes()[: f.stat().st_size // 2]),
    "of text": lambda f, c: _again(f, b"<html>not found</html>"),
    "of a pickle": lambda f, c: _again(f, b"\x80\x04\x95cos\nsystem\n"),
    "that is a pipe": lambda f, c: (f.unlink(), os.mkfifo(f)),
    "that is a broken link": lambda f, c: (f.unlink(), f.symlink_to("nowhere")),
    "that is a link to itself": lambda f, c: (f.unlink(), f.symlink_to(f.name)),
    "that is a device": lambda f, c: (f.unlink(), f.symlink_to("/dev/zero")),
    "of 10^9 pixels": lambda f, c: _png(f, 40_000, 25_000, zlib.compress(b"")),
    "of 2^31 pixels a side": lambda f, c: _png(f, 2**31 - 1, 2**31 - 1, zlib.compress(b"")),
    "of 120 million pixels": lambda f, c: _png(f, 12_000, 10_000, zlib.compress(bytes(12_001 * 10))),
    "of no pixels": lambda f, c: _png(f, 0, 0, b""),
    "of one pixel": lambda f, c: Image.new("L", (1, 1)).save(f),
    "that is long": lambda f, c: Image.new("L", (30_000, 1)).save(f),
    "of floats beyond white": lambda f, c: Image.fromarray(np.full((9, 9), 7.0, "f4")).save(f, format="TIFF"),
    "of NaN": lambda f, c: Image.fromarray(np.full((9, 9), np.nan, "f4")).save(f, format="TIFF"),
    "of numbers below 0": lambda f, c: Image.fromarray(np.full((9, 9), -5, "i4")).save(f, format="TIFF"),
    "that is an empty folder": lambda f, c: (f.unlink(), f.mkdir()),
    "of 2^40 bytes, most of them nowhere": lambda f, c: os.truncate(f, 2**40),
    "whose remark is a bomb": lambda f, c: _with_chunk(f, b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26))),
    "whose colours are a bomb": lambda f, c: _with_chunk(f, b"iCCP", b"k\0\0" + zlib.compress(bytes(2**26))),
    "whose pixels are too many for it": lambda f, c: _png(f, 28, 28, zlib.compress(bytes(2**26), 9)),
    "of a kind that is not read": lambda f, c: _again(f, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + c.randbytes(300)),
    "with what no picture needs behind": lambda f, c: _again(f, f.read_bytes() + c.randbytes(999)),
    **{f"cut, {kind}": partial(lambda f, c, kind: _cut_as(f, kind), kind=kind) for kind in CUT},
    "whose EXIF is noise": lambda f, c: Image.open(f).copy().save(f, exif=b"Exif\0\0" + c.randbytes(60)),
    **{f"with {n} bytes altered": partial(lambda f, c, n: _flip(f, c, n), n=n) for n in (1, 2, 3, 5, 8, 13)},
}


def _flip(file: Path, chance: random.Random, n: int) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(n):
        content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    _again(file, bytes(content))


# -- names -------------------------------------------------------------------------------------------


def _named(world: World, name: str) -> None:
    with world.place() as place:
        task = Path(shutil.copytree(world.support, place / "task"))
        first = sorted(task.iterdir())[0]
        _moved(first, task / name)
        _read_back(world, world.classify(task, world.query), first.name, name)


def _file_named(world: World, name: str) -> None:
    with world.place() as place:
        query = Path(shutil.copytree(world.query, place / "query"))
        file = sorted(query.rglob("*.png"))[0]
        _moved(file, file.parent / f"{name}.png")
        ended = world.classify(world.head, query)
        if not ended.exit_code:
            images = [str(each) for each in pd.read_csv(world.csv, keep_default_na=False).image]
            if not any(each.endswith(f"/{told(name)}.png") for each in images) and not name.startswith("."):
                raise Wrong(f"not among {images[0]!r} …")
        _clean(ended)


def _moved(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)  # where there is a slash in the name
    file.rename(target)


def told(name: str) -> str:
    return name.replace("\r", "\\r").encode("utf-8", "backslashreplace").decode()


def _read_back(world: World, ended, old: str, new: str) -> None:
    if not ended.exit_code:
        classes = set(pd.read_csv(world.csv, keep_default_na=False, dtype=str)["class"])
        known = {new if each == old else each for each in pd.read_csv(io.StringIO(world.answers))["class"].unique()}
        if not classes <= {told(each) for each in known} | {told(new)} and not new.startswith("."):
            raise Wrong(f"the table says {sorted(classes)}")
    _clean(ended)


def _clean(ended) -> None:
    if "\x1b" in ended.output or "\r" in ended.output or "\x01" in ended.output:
        raise Wrong("the terminal was reached")
    if ended.exit_code:
        refused(ended.exit_code, ended.output, ended)
    raise Fine


# -- folders and zips --------------------------------------------------------------------------------


def _folder(world: World, change: Callable[[Path], object], is_same: bool) -> None:
    with world.place() as place:
        task = Path(shutil.copytree(world.support, place / "task"))
        change(task)
        ended = world.classify(task, world.query)
        if ended.exit_code:
            if is_same:
                raise Wrong(f"refused: {ended.output}")
            refused(ended.exit_code, ended.output, ended)
        if not is_same:
            raise Wrong("taken without a word")
        if world.csv.read_text() != world.answers:
            raise Wrong("other answers")
    raise Fine


def _one(task: Path) -> Path:
    return sorted(task.iterdir())[0]


def _linked(task: Path) -> None:
    first = _one(task)
    first.rename(task.parent / "elsewhere")
    first.symlink_to(task.parent / "elsewhere")


def _text(task: Path) -> None:
    (task / "text").mkdir()
    (task / "text" / "a.txt").touch()


def _hidden(task: Path) -> None:
    for name in (".ipynb_checkpoints", ".thumbnails", ".git"):
        shutil.copytree(_one(task), task / name)


def _alone(task: Path) -> None:
    for each in sorted(task.iterdir())[1:]:
        shutil.rmtree(each)


def _instead(task: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(task)
    make(task)


SAME = ("a linked class", "hidden folders", "notes beside")
"""What a person would not take for another task."""
FOLDERS: dict[str, Callable[[Path], object]] = {
    "a linked class": _linked,
    "hidden folders": _hidden,
    "notes beside": lambda t: ((t / "notes.txt").touch(), (_one(t) / "Thumbs.db").touch()),
    "an empty class": lambda t: (t / "empty").mkdir(),
    "a class of text": _text,
    "thousands of empty classes": lambda t: [(t / f"empty{i}").mkdir() for i in range(2000)],
    "two classes that look the same": lambda t: [shutil.copytree(_one(t), t / each) for each in ("\u00e9", "e\u0301")],
    "an image that is not read": lambda t: (_one(t) / "a.heic").write_bytes(b"x"),
    "a class of images that are not read": lambda t: ((t / "x").mkdir(), (t / "x" / "a.HEIF").write_bytes(b"x")),
    "a folder named as an image": lambda t: (_one(t) / "a.png").mkdir(),
    "an image beside": lambda t: shutil.copy(next(_one(t).iterdir()), t / "0.png"),
    "a link in a circle": lambda t: (_one(t) / "up").symlink_to(t),
    "a class that is a broken link": lambda t: (t / "x").symlink_to("nowhere"),
    "one class": _alone,
    "none": shutil.rmtree,
    "a file": lambda t: _instead(t, Path.touch),
    "a pipe": lambda t: _instead(t, os.mkfifo),
}


def _zipped(world: World, change: Callable[[zipfile.ZipFile], object], spoil: Callable[[bytes], bytes]) -> None:
    """The queries as a zip."""
    with world.place() as place:
        with zipfile.ZipFile(place / "query.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(world.query.rglob("*.png")):
                archive.write(file, file.relative_to(world.query.parent))
            change(archive)
        content = spoil((place / "query.zip").read_bytes())
        (place / "query.zip").write_bytes(content)
        ended = world.classify(world.head, place / "query")
        if ended.exit_code:
            refused(ended.exit_code, ended.output, ended)
        found, known = pd.read_csv(world.csv), pd.read_csv(io.StringIO(world.answers))
        if list(found["class"]) != list(known["class"]):
            raise Wrong("other answers")
    raise Fine


def _bomb(archive: zipfile.ZipFile) -> None:
    with archive.open("query/class/bomb.png", "w", force_zip64=True) as member:
        for _ in range(600):
            member.write(bytes(2**20))


def _member(archive: zipfile.ZipFile, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        archive.writestr(name, archive.read(archive.namelist()[0]))


def _middle(content: bytes) -> bytes:
    return content[:300] + bytes([content[300] ^ 255]) + content[301:]


ZIPS: dict[str, tuple[Callable[[zipfile.ZipFile], object], Callable[[bytes], bytes]]] = {
    "a zip": (lambda archive: None, bytes),
    "a zip with a Mac's notes": (lambda archive: archive.writestr("__MACOSX/query/._0.png", b"x"), bytes),
    "a zip cut": (lambda archive: None, lambda content: content[: len(content) // 2]),
    "a zip altered": (lambda archive: None, _middle),
    "a zip of noise": (lambda archive: None, lambda content: bytes(len(content))),
    "a zip with a bomb": (_bomb, bytes),
    "a zip with an image twice": (lambda archive: _member(archive, archive.namelist()[0]), bytes),
    "a zip that leads out": (lambda archive: _member(archive, "query/../../a.png"), bytes),
    "a zip from the root": (lambda archive: _member(archive, "/a.png"), bytes),
    "a zip with an image elsewhere": (lambda archive: _member(archive, "elsewhere/a.png"), bytes),
    "a zip of another system": (lambda archive: _member(archive, "query\\x\\a.png"), bytes),
    "a zip with a kind that is not read": (lambda archive: _member(archive, "query/class/a.heic"), bytes),
    "a zip in a zip": (lambda archive: _member(archive, "query/a.zip"), bytes),
    "an empty zip": (lambda archive: None, lambda content: b"PK\5\6" + bytes(18)),
}
