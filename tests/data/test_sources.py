"""Sources besides class folders: what is read, how it is split, and a sentence for what is wrong."""

import contextlib
import gzip
import http.server
import io
import json
import os
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from toque import checks, data
from toque.data import Columns, evaluation_batches
from toque.data.elsewhere import shard_names
from toque.data.stored import read_idx
from toque.data.table import read_table

DRAW = np.random.default_rng(0)
PICTURES = DRAW.integers(0, 256, (8, 9, 7, 3), dtype=np.uint8)
MASKS = DRAW.integers(0, 3, (8, 9, 7), dtype=np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def put(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def opened(path, **settings):
    return data.open(path, **{"seed": 0, **settings})


def everything(splits):
    """name -> (pixels, target) of both parts."""
    found = {}
    for part in (splits.train, splits.val):
        for index in range(len(part)):
            image, target = part.item(index)
            target = target.numpy().tolist() if isinstance(target, torch.Tensor) else target
            found[part.name(index)] = image.permute(1, 2, 0).numpy(), target
    return found


def assert_pictures(splits, numbers):
    """Every picture is the one that was written under its name."""
    found = everything(splits)
    assert sorted(numbers) == sorted(found)
    for name, number in numbers.items():
        assert np.array_equal(found[name][0], PICTURES[number]), name


# --- tables ---

ROWS = [f"pictures/{n}.png" for n in range(8)]


@pytest.fixture
def pictures(tmp_path):
    put(tmp_path, {name: png(PICTURES[n]) for n, name in enumerate(ROWS)})
    return tmp_path


def table(root, header, *columns, name="table.csv", separator=","):
    rows = [header.replace(",", separator)]
    rows += [separator.join(map(str, row)) for row in zip(ROWS, *columns, strict=True)]
    put(root, {name: "\n".join(rows) + "\n"})
    return root / name


SPLIT = ["train"] * 5 + ["val", "Dev", "validation"]
KINDS = {
    "classes": (
        "path,label,split",
        [["dog", "cat"][n % 2] for n in range(8)],
        "classification",
        ("cat", "dog"),
    ),
    "numbers of classes": (
        "image,class,split",
        [n % 3 for n in range(8)],
        "classification",
        ("0", "1", "2"),
    ),
    "numbers": ("path,target,split", [n + 0.5 for n in range(8)], "regression", ("target",)),
    "labels": (
        "path,labels,split",
        [["a", "b|a", "c"][n % 3] for n in range(8)],
        "multilabel",
        ("a", "b", "c"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of(pictures, kind):
    header, values, task, names = KINDS[kind]
    splits = opened(table(pictures, header, values, SPLIT))
    assert splits.train.task == task and splits.classes == names
    assert len(splits.train) == 5 and len(splits.val) == 3 and not splits.drawn
    assert_pictures(splits, {name: n for n, name in enumerate(ROWS)})
    for name, (_, target) in everything(splits).items():
        value = values[ROWS.index(name)]
        expected = {
            "classification": lambda value=value: names.index(str(value)),
            "regression": lambda value=value: [value],
            "multilabel": lambda value=value: [float(label in value.split("|")) for label in names],
        }[task]()
        assert target == expected


def test_several_columns_of_a_table(pictures):
    numbers = [[n / 2 for n in range(8)], list(range(8))]
    path = table(pictures, "path,x,y,w", *numbers, [1] * 7 + [0.25])
    splits = opened(path, columns=Columns(label=["x", "y"], weight="w"))
    assert splits.train.task == "regression" and splits.classes == ("x", "y") and splits.drawn
    found = everything(splits)
    assert [found[name][1] for name in ROWS] == np.array(numbers).T.tolist()
    weights = {
        part.name(n): float(part.weights[n])
        for part in (splits.train, splits.val)
        for n in range(len(part))
    }
    assert [weights[name] for name in ROWS] == [1] * 7 + [0.25]
    flags = table(pictures, "path,wet,dark", [0, 1] * 4, [1] * 8)
    assert opened(flags, columns=Columns(label=["wet", "dark"])).train.task == "multilabel"


def test_an_image_may_have_none_of_several_labels(pictures):
    cells = ["wet|dark", "", "dark|", " | wet", "dark", "wet", "", "dark"]
    splits = opened(table(pictures, "path,labels", cells))
    assert splits.train.task == "multilabel" and splits.classes == ("dark", "wet")
    found = everything(splits)
    assert [found[name][1] for name in ROWS] == [
        [1, 1], [0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 0], [1, 0]
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"labels must be filled for some of the rows; got noth"):
        opened(table(pictures, "path,labels", [""] * 8))
    with pytest.raises(ValueError, match=r"every label must be filled; got nothing in row 2"):
        opened(table(pictures, "path,label", ["cat", ""] * 4))


def test_a_rare_label_is_in_both_parts_of_a_drawn_split(pictures):
    """Of 8 images two have it; by chance alone both would mostly be for training."""
    cells = ["dark|rare", "dark", "dark", "wet", "wet|rare", "wet", "dark|wet", "dark|wet"]
    for seed in range(12):
        splits = opened(table(pictures, "path,labels", cells), seed=seed)
        for part in (splits.train, splits.val):
            assert part.labels[:, splits.classes.index("rare")].sum() == 1


def test_labels_that_no_training_image_has_are_said(pictures):
    cells = ["a|b"] * 6 + ["a|c"] * 2
    splits = opened(table(pictures, "path,labels,split", cells, ["train"] * 6 + ["val"] * 2))
    assert splits.notes == ("Labels that no training image has: 1 (c).",)


def test_what_a_label_means_can_be_said(pictures):
    ages = table(pictures, "path;label", range(20, 28), separator=";")
    assert opened(ages, task="regression").train.task == "regression"
    few = table(pictures, "path;label", [30, 4] * 4, separator=";")
    assert opened(few).classes == ("4", "30")
    put(pictures, {f"m/{n}.png": png(MASKS[n]) for n in range(8)})
    masks = table(pictures, "path,mask", [f"m/{n}.png" for n in range(8)])
    splits = opened(masks)
    assert splits.train.task == "segmentation" and splits.classes == ("0", "1", "2")
    found = everything(splits)
    assert all(found[name][1] == MASKS[n].tolist() for n, name in enumerate(ROWS))


def test_a_parquet_table_is_read_as_csv(pictures):
    pyarrow = pytest.importorskip("pyarrow", reason="of the extra sources")
    from pyarrow import parquet

    labels = [["a", "b"] if n % 2 else ["a"] for n in range(8)]
    columns = {"path": ROWS, "labels": labels, "split": SPLIT}
    parquet.write_table(pyarrow.table(columns), pictures / "t.parquet")
    splits = opened(pictures / "t.parquet")
    texts = table(pictures, "path,labels,split", ["|".join(row) for row in labels], SPLIT)
    assert splits.train.task == "multilabel"
    assert splits.train.fingerprint() == opened(texts).train.fingerprint()
    put(pictures, {"bad.parquet": b"PAR1 nothing"})
    with pytest.raises(ValueError, match=r"bad.parquet must be a Parquet file; got an error"):
        opened(pictures / "bad.parquet")


@pytest.mark.parametrize(
    ("header", "values", "settings", "words"),
    [
        ("path,lable", [1] * 8, {}, r"column of the label must be named label; got path, lable. Did you mean lable\?"),
        ("path,label", [1] * 8, {"columns": Columns(label="labe")}, r"table.label must be a column; got labe. Did you mean label\?"),
        ("path,label", ["3.5"] * 7 + ["tall"], {"task": "regression"}, "every label must be a number; got 'tall' at 8"),
        ("path,label", ["x"] * 7 + [""], {}, "every label must be filled; got nothing in row 8"),
        ("path,label", ['"3,5"'] * 8, {"task": "regression"}, r"a number; got '3,5' at 1. Write it with a point, 3\.5"),
        ("path,labels", ["cat", "dog", "cat dog"] + ["cat"] * 5, {}, r"'cat dog' in row 3, whose words are labels by themselves. Write cat\|dog"),
        ("path,labels", ["cat|dog", "cat;dog"] + ["cat"] * 6, {}, r"separated alike by one of \| ; ,; got 'cat;dog' in row 2"),
        ("path,label,split", [0] * 8, {}, "every split must be train, val .* or test; got 'tran' in row 8. Did you mean train"),
        ("path,label,weight", [0] * 8, {}, "every weight must be >= 0; got -1 in row 8"),
    ],
)  # fmt: skip
def test_mistakes_in_a_table(pictures, header, values, settings, words):
    third = {"split": ["train"] * 7 + ["tran"], "weight": [1] * 7 + [-1]}
    last = header.split(",")[-1]
    extra = [third[last]] if header.count(",") == 2 else []
    with pytest.raises(checks.UserMistake, match=words):
        opened(table(pictures, header, values, *extra), **settings)


def test_more_mistakes_in_a_table(pictures):
    path = table(pictures, "path,label", [n % 2 for n in range(8)])
    (pictures / ROWS[3]).unlink()
    with pytest.raises(
        ValueError, match=r"1 of 8 that cannot be used: .*3.png \(cannot be read: No such file"
    ):
        opened(path)
    splits = opened(path, on_bad="skip")
    assert [file.path.name for file in splits.bad] == ["3.png"]
    assert len(splits.train) + len(splits.val) == 7
    with pytest.raises(
        FileNotFoundError, match=r"tabel.csv must be a table; .* Did you mean table.csv"
    ):
        opened(pictures / "tabel.csv")
    put(pictures, {"ragged.csv": "path,label\na.png,1,2\n"})
    with pytest.raises(ValueError, match="every row must be of 2 cells; got 3 in row 1"):
        opened(pictures / "ragged.csv")
    put(pictures, {"latin.csv": "path,label\ncaf\xe9.png,1\n".encode("latin-1")})
    with pytest.raises(ValueError, match=r"latin.csv must be UTF-8 text"):
        opened(pictures / "latin.csv")


# --- images and masks ---


def masked(root, masks=MASKS, suffix="png", parts=False):
    for n in range(8):
        part = f"{'train' if n < 6 else 'val'}/" if parts else ""
        put(
            root,
            {f"{part}images/{n}.png": png(PICTURES[n]), f"{part}masks/{n}.{suffix}": png(masks[n])},
        )


@pytest.mark.parametrize("parts", [False, True])
def test_images_beside_masks(tmp_path, parts):
    masked(tmp_path, parts=parts)
    splits = opened(tmp_path)
    assert splits.train.task == "segmentation" and splits.classes == ("0", "1", "2")
    assert splits.drawn is not parts and (not parts or len(splits.val) == 2)
    for name, (image, mask) in everything(splits).items():
        number = int(name[-5])
        assert np.array_equal(image, PICTURES[number]) and mask == MASKS[number].tolist()
    (batch,) = evaluation_batches(splits.val, None, batch_size=8, threads=2)
    assert batch.targets.shape == (len(splits.val), 9, 7)


def test_named_classes_and_palettes(tmp_path):
    masked(tmp_path)
    put(tmp_path, {"classes.txt": "sky\nroad\ncar\n"})
    for n in range(8):
        image = Image.fromarray(MASKS[n], "P") if False else Image.fromarray(MASKS[n]).convert("P")
        image.putpalette([n for n in range(256) for _ in range(3)][::-1])
        image.putdata(MASKS[n].reshape(-1).tolist())
        image.save(tmp_path / f"masks/{n}.png")
    splits = opened(tmp_path)
    assert splits.classes == ("sky", "road", "car")
    found = everything(splits)
    assert all(mask == MASKS[int(name[-5])].tolist() for name, (_, mask) in found.items())


def test_masks_of_0_and_255_have_two_classes(tmp_path):
    masked(tmp_path, masks=(MASKS > 0).astype(np.uint8) * 255)
    splits = opened(tmp_path)
    assert splits.classes == ("background", "foreground")
    assert splits.notes == ("The masks hold 0 and 255 alone: 255 is taken for class 1.",)
    for name, (_, mask) in everything(splits).items():
        assert mask == (MASKS[int(name[-5])] > 0).astype(int).tolist()


def test_mistakes_in_masks(tmp_path):
    masked(tmp_path)
    (tmp_path / "masks/3.png").unlink()
    with pytest.raises(
        ValueError, match=r"every image in .* with a mask of its name; got images/3.png without one"
    ):
        opened(tmp_path)
    put(tmp_path, {"masks/3.png": png(MASKS[3][:, :5])})
    with pytest.raises(
        ValueError, match=r"1 of 8 .*its mask masks/3.png is 9 x 5, the image 9 x 7 pixels"
    ):
        opened(tmp_path)
    assert len(opened(tmp_path, on_bad="skip").bad) == 1
    put(tmp_path, {"masks/3.png": png(PICTURES[3])})
    with pytest.raises(ValueError, match="a mask of colours; save class numbers as a gray PNG"):
        opened(tmp_path)
    put(tmp_path, {"masks/3.png": png(MASKS[3] + 2), "classes.txt": "a\nb\nc\n"})
    with pytest.raises(ValueError, match=r"its mask masks/3.png has the class 4 of 0 .. 2"):
        opened(tmp_path)
    put(tmp_path, {"masks/3.png": b"nothing"})
    with pytest.raises(ValueError, match="not an image of a known kind"):
        opened(tmp_path)
    put(tmp_path, {"masks/3.png": png(MASKS[3]), "masks/9.png": png(MASKS[3])})
    with pytest.raises(ValueError, match=r"every mask in .* got masks/9.png without one"):
        opened(tmp_path)


# --- arrays ---


def arrays(prefix="", **more):
    labels = np.arange(8) % 2
    return {f"{prefix}images": PICTURES, f"{prefix}labels": labels, **more}


@pytest.mark.parametrize("kind", ["npz", "pt", "npy"])
def test_arrays_on_disk(tmp_path, kind):
    stored = {**arrays("train_"), "val_images": PICTURES[:2], "val_labels": np.array([1, 0]),
              "classes": np.array(["no", "yes"])}  # fmt: skip
    if kind == "npz":
        path = tmp_path / "data.npz"
        np.savez(path, **stored)
    elif kind == "pt":
        path = tmp_path / "data.pt"
        torch.save(
            {
                k: torch.from_numpy(v) if v.dtype.kind != "U" else v.tolist()
                for k, v in stored.items()
            },
            path,
        )
    else:
        path = tmp_path
        for name, array in stored.items():
            np.save(path / f"{name}.npy", array)
    splits = opened(path)
    assert splits.classes == ("no", "yes") and (len(splits.train), len(splits.val)) == (8, 2)
    assert np.array_equal(splits.train.read(3).permute(1, 2, 0), PICTURES[3])
    assert splits.val.labels.tolist() == [1, 0]


def test_arrays_without_validation_are_split_and_may_be_masks(tmp_path):
    np.savez(tmp_path / "a.npz", x=PICTURES, masks=MASKS)
    splits = opened(tmp_path / "a.npz", val_fraction=0.5)
    assert splits.train.task == "segmentation" and splits.drawn
    assert len(splits.train) + len(splits.val) == 8


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


def test_arrays_that_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"images": Bomb()}, "bad.pt")
    np.savez("bad.npz", images=np.array([Bomb()], dtype=object), labels=np.zeros(1))
    for name in ("bad.pt", "bad.npz"):
        with pytest.raises(ValueError, match="Save it anew, without objects"):
            opened(name)
    assert not (tmp_path / "unpickled").exists()
    np.savez("less.npz", pictures=PICTURES)
    with pytest.raises(
        ValueError, match=r"must be train_images and train_labels, or .*; got pictures"
    ):
        opened("less.npz")
    np.savez("half.npz", images=PICTURES)
    with pytest.raises(ValueError, match="must be with labels for images"):
        opened("half.npz")
    put(tmp_path, {"cut.npz": (tmp_path / "less.npz").read_bytes()[:300]})
    with pytest.raises(ValueError, match=r"must be a .npz file of numbers; got an error"):
        opened("cut.npz")


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def test_idx_files(tmp_path):
    gray = PICTURES[..., 0]
    put(tmp_path, {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(gray)), "train-labels-idx1-ubyte.gz": gzip.compress(idx(np.arange(8) % 4)),
        "t10k-images-idx3-ubyte": idx(gray[:2]), "t10k-labels-idx1-ubyte": idx(np.array([3, 0])),
    })  # fmt: skip
    splits = opened(tmp_path)
    assert (len(splits.train), len(splits.val), splits.channels) == (8, 2, 1)
    assert splits.classes == ("0", "1", "2", "3") and splits.val.labels.tolist() == [3, 0]
    assert np.array_equal(splits.train.read(5)[0], gray[5])
    whole = tmp_path / "train-images-idx3-ubyte.gz"
    for content, words in [
        (gzip.compress(idx(gray)[:-1]), "bytes long after its header; got 503"),
        (gzip.compress(idx(gray) + b"0"), "bytes long after its header; got more"),
        (gzip.compress(idx(gray))[:-20], "whole IDX file; got an error"),
        (
            gzip.compress(b"\x89PNG" + idx(gray)),
            "IDX file of unsigned bytes; got one that starts with 89 50 4e 47",
        ),
        (gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12), "a header of"),
        (b"not gzip", "whole IDX file; got an error"),
    ]:
        whole.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_idx(whole)


# --- shards ---


def shard(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample(n, label, suffix="cls"):
    return {f"{n:03}.png": png(PICTURES[n]), f"{n:03}.{suffix}": label}


def test_shards_are_read_where_the_files_lie(tmp_path):
    for number, rows in enumerate([range(3), range(3, 6)]):
        files = {k: v for n in rows for k, v in sample(n, ["cat", "dog"][n % 2]).items()}
        shard(tmp_path / f"train-{number:02}.tar", files)
    shard(tmp_path / "val-00.tar", {**sample(6, "cat"), **sample(7, "dog")})
    splits = opened(tmp_path)
    assert splits.classes == ("cat", "dog") and (len(splits.train), len(splits.val)) == (6, 2)
    assert_pictures(splits, {f"{n:03}.png": n for n in range(8)})
    assert all(target == int(name[:3]) % 2 for name, (_, target) in everything(splits).items())
    counted = opened(str(tmp_path / "train-{00..01}.tar"))
    assert counted.drawn and len(counted.train) + len(counted.val) == 6
    assert shard_names("s3://b/x-{008..010}.tar")[1] == "s3://b/x-009.tar"
    before = splits.train.fingerprint()
    assert opened(tmp_path).train.fingerprint() == before


def test_shards_with_json_and_with_masks(tmp_path):
    numbers = shard(tmp_path / "n.tar", {
        k: v for n in range(8) for k, v in sample(n, json.dumps({"label": n / 4}), "json").items()
    })  # fmt: skip
    splits = opened(str(numbers))
    assert splits.train.task == "regression"
    assert {name: target for name, (_, target) in everything(splits).items()} == {
        f"{n:03}.png": [n / 4] for n in range(8)
    }
    masks = shard(tmp_path / "m.tar", {
        k: v for n in range(8) for k, v in sample(n, png(MASKS[n]), "seg.png").items()
    })  # fmt: skip
    splits = opened(str(masks))
    assert splits.train.task == "segmentation"
    assert all(
        mask == MASKS[int(name[:3])].tolist() for name, (_, mask) in everything(splits).items()
    )


def test_mistakes_in_shards(tmp_path):
    path = shard(tmp_path / "a.tar", {**sample(0, "1"), "001.png": png(PICTURES[1])})
    with pytest.raises(
        ValueError, match="an image with its label or mask; got 001 without a label"
    ):
        opened(str(path))
    whole = shard(tmp_path / "b.tar", {**sample(0, "1"), **sample(1, "0")}).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match="tar file; got an error"):
        opened(str(tmp_path / "b.tar"))
    last = shard(tmp_path / "d.tar", {"000.cls": "1", "000.png": png(PICTURES[0]) + bytes(3000)})
    last.write_bytes(last.read_bytes()[:2500])
    with pytest.raises(ValueError, match="tar file; got an error"):
        opened(str(last))
    (tmp_path / "b.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match=r"must be a whole, uncompressed tar file.*unpack .tar.gz"):
        opened(str(tmp_path / "b.tar"))
    with pytest.raises(FileNotFoundError, match=r"c.tar must be a tar file; there is none"):
        opened(str(tmp_path / "c.tar"))
    link = tmp_path / "l.tar"
    with tarfile.open(link, "w") as tar:
        member = tarfile.TarInfo("000.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"must be samples such as 000.jpg with 000.cls; got none"):
        opened(str(link))


# --- URLs ---


@contextlib.contextmanager
def served(root):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(root))

        def log_message(self, *arguments):
            pass

        def send_head(self):
            wanted = self.headers.get("Range")
            if wanted is None:
                return super().send_head()
            content = (root / self.path.lstrip("/")).read_bytes()
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last or len(content) - 1) + 1]
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            )
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            return io.BytesIO(part)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_class_folders_behind_a_url(tmp_path, scheme):
    fsspec = pytest.importorskip("fsspec", reason="of the extra sources")
    files = {
        f"{'train' if n < 6 else 'val'}/{'ab'[n % 2]}/{n}.png": png(PICTURES[n]) for n in range(8)
    }
    if scheme == "file":
        put(tmp_path, files)
        url = f"file://{tmp_path}"
    else:
        memory = fsspec.filesystem("memory")
        for name, content in files.items():
            memory.pipe_file(f"/test_sources/{name}", content)
        url = "memory://test_sources"
    splits = opened(url)
    assert splits.classes == ("a", "b") and (len(splits.train), len(splits.val)) == (6, 2)
    assert_pictures(splits, {name: int(name[-5]) for name in files})
    local = put(tmp_path / "local", files) or opened(tmp_path / "local")
    assert local.train.labels.tolist() == splits.train.labels.tolist()


def test_tables_masks_and_shards_from_a_web_server(pictures):
    pytest.importorskip("aiohttp", reason="of the extra sources")
    table(pictures, "path,label", [n % 2 for n in range(8)])
    shard(pictures / "s.tar", {k: v for n in range(8) for k, v in sample(n, str(n % 2)).items()})
    masked(pictures / "seg")
    with served(pictures) as url:
        splits = opened(f"{url}/table.csv")
        assert_pictures(splits, {name: n for n, name in enumerate(ROWS)})
        assert_pictures(opened(f"{url}/s.tar"), {f"{n:03}.png": n for n in range(8)})
        found = everything(opened(f"{url}/seg/"))
        assert len(found) == 8
        assert all(mask == MASKS[int(name[-5])].tolist() for name, (_, mask) in found.items())
        (pictures / ROWS[2]).write_bytes(b"damaged")
        left = opened(f"{url}/table.csv", on_bad="skip")
        assert [str(file.path)[-5:] for file in left.bad] == ["2.png"]
        with pytest.raises(checks.UserMistake, match=r"nothing.csv"):
            opened(f"{url}/nothing.csv")
    with pytest.raises(checks.UserMistake):
        opened(f"{url}/table.csv")


def test_urls_of_no_known_kind():
    pytest.importorskip("fsspec", reason="of the extra sources")
    with pytest.raises(ValueError, match="of a kind that fsspec knows"):
        opened("floppy://disk/photos")


# --- Hugging Face ---


def test_a_saved_dataset(tmp_path):
    datasets = pytest.importorskip("datasets", reason="of the extra sources")
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"])
    )
    rows = {
        "image": [{"bytes": png(p), "path": None} for p in PICTURES],
        "label": [n % 2 for n in range(8)],
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    both = datasets.DatasetDict(
        {"train": whole.select(range(6)), "validation": whole.select([6, 7])}
    )
    both.save_to_disk(tmp_path / "both")
    splits = opened(tmp_path / "both")
    assert splits.classes == ("cat", "dog") and (len(splits.train), len(splits.val)) == (6, 2)
    assert np.array_equal(splits.val.read(1).permute(1, 2, 0), PICTURES[7])
    assert splits.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    three = {
        "validation": whole.select([6]),
        "test": whole.select([7]),
        "train": whole.select(range(6)),
    }
    for order in (list(three), list(three)[::-1]):
        datasets.DatasetDict({name: three[name] for name in order}).save_to_disk(
            tmp_path / order[0]
        )
        assert np.array_equal(opened(tmp_path / order[0]).val.read(0).permute(1, 2, 0), PICTURES[6])
    whole.rename_column("label", "kind").save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match=r"must be with one of labels; got image, kind"):
        opened(tmp_path / "one")
    drawn = opened(tmp_path / "one", columns=Columns(label="kind"))
    assert drawn.drawn and len(drawn.train) + len(drawn.val) == 8
    masks = {"image": rows["image"], "mask": [{"bytes": png(m), "path": None} for m in MASKS]}
    datasets.Dataset.from_dict(
        masks, features=datasets.Features(image=datasets.Image(), mask=datasets.Image())
    ).save_to_disk(tmp_path / "masks")
    splits = opened(tmp_path / "masks")
    assert splits.train.task == "segmentation" and splits.classes == ("0", "1", "2")
    assert splits.train.target(0).shape == (9, 7)


def test_a_task_that_the_data_has_not():
    with pytest.raises(
        ValueError, match="targets must be those of regression; got those of classification"
    ):
        opened("fashion", task="regression")
    splits = opened("nuclei")
    assert splits.train.task == "segmentation" and splits.classes == ("background", "nucleus")
    assert (len(splits.train), len(splits.val)) == (160, 40)


def listing(folder, head, values):
    """What a table of paths that nobody looks at yet says."""
    file = folder / "table.csv"
    file.write_text("\n".join([head, *(f"{n}.png,{value}" for n, value in enumerate(values))]))
    return read_table(str(file), Columns(), None)


def test_whole_numbers_that_hardly_repeat_are_not_taken_for_classes(tmp_path):
    with pytest.raises(ValueError, match=r"the task of label must be said.*; got 30 different"):
        listing(tmp_path, "path,label", range(30))
    assert listing(tmp_path, "path,label", [n % 10 for n in range(30)]).targets.task == (
        "classification"
    )  # fmt: skip
    words = listing(tmp_path, "path,label", [f"person {n}" for n in range(30)]).targets
    assert words.task == "classification"  # words are never numbers


def test_words_that_are_no_labels_stay_together(tmp_path):
    found = listing(tmp_path, "path,labels", ["traffic light", "red light", "light|car"]).targets
    assert found.names == ("car", "light", "red light", "traffic light")


def test_columns_by_comma(pictures):
    path = table(pictures, "path,x,y", [f"{n / 2},{n + 0.5}" for n in range(8)])
    splits = opened(path, columns=Columns(label="x, y"))
    assert splits.train.task == "regression" and splits.classes == ("x", "y")
