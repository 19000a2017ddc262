"""`dreampose eval --suite`: the paper's protocol as a job: rows, what is kept, figures, differences, and the report."""

import csv
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dreampose_cli import cache as store
from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.errors import EvaluationError, UsageError
from dreampose_cli.evaluation import variants
from dreampose_cli.evaluation.facing import mean_where, view_of
from dreampose_cli.evaluation.metric_registry import METRICS
from dreampose_cli.evaluation.paired_stats import compare
from dreampose_cli.evaluation.scoring import evaluate
from dreampose_cli.evaluation.variants import variants_of
from dreampose_cli.poses.files import open_poses
from dreampose_cli.subjects import views as tuning
from dreampose_cli.training.identities import content_mark
from dreampose_cli.workflows import suite, suite_clips
from dreampose_cli.workflows.options import SuiteOptions
from dreampose_cli.workflows.suite_clips import chosen_rows, photo_rows, smooth

FAST = {"frames": 4, "steps": 1, "tune_steps": 1, "decoder_steps": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three test clips of sixteen frames, large enough for the estimator that looks at the photos."""
    from dreampose_cli.workflows.synth import write_dataset

    folder = tmp_path_factory.mktemp("suite") / "clips"
    return write_dataset(folder, subjects=3, test_subjects=3, frames=16, seed=5, png=True, size=(48, 32))


@pytest.fixture(autouse=True)
def exact_photo_poses(monkeypatch, dataset):
    """The estimator of mannequins knows 128 x 160: the poses of tiny photos are the clip's."""

    def estimate(cache, picture, path, estimator, device, note=None):
        path = Path(path)
        return open_poses(dataset / "test" / path.parent.name / "video.poses").frame(int(path.stem))

    monkeypatch.setattr(tuning, "estimate_photo", estimate)


@pytest.fixture(scope="module")
def whole(dataset, tiny_base, tmp_path_factory):
    """A finished run with everything, a little of each, once for the module: its folder and its document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "GUIDANCE", (1.0, 4.0))
        patch.setattr(variants, "PHOTOS", (1, 3))
        patch.setattr(
            tuning,
            "estimate_photo",
            lambda _cache, picture, path, *_: open_poses(dataset / "test" / Path(path).parent.name / "video.poses").frame(
                int(Path(path).stem)
            ),
        )
        folder = tmp_path_factory.mktemp("run") / "suite"
        options = SuiteOptions(
            dataset,
            folder,
            base=str(tiny_base),
            compare={"twin": str(tiny_base)},
            ablations=True,
            command="dreampose eval --suite ...",
            **FAST,
        )
        document, found = suite.suite(options)
    return folder, document, found


def test_clips_are_found_as_training_finds_them(tmp_path):
    picture = np.full((1, 16, 12, 3), 200, np.uint8)
    for name in ("a", "b", "c"):
        media.write_frames(tmp_path / f"{name}.mp4", np.repeat(picture, 2, 0), fps=5)
    (tmp_path / "deep").mkdir()
    for name in ("d", "e"):
        media.write_frames(tmp_path / "deep" / f"{name}.mp4", picture, fps=5)
    (tmp_path / "b.poses").write_bytes(b"poses")
    found = dict(suite.test_clips(tmp_path))
    assert list(found) == ["a", "b", "c", "deep-d", "deep-e"]
    assert (found["a"].frames, found["a"].poses) == (tmp_path / "a.mp4", None)
    assert found["b"].poses == tmp_path / "b.poses"
    (tmp_path / "test.txt").write_text("b.mp4\nc\n")
    assert [name for name, _ in suite.test_clips(tmp_path)] == ["b", "c"]
    official = tmp_path / "official" / "clip"
    official.parent.mkdir()
    media.write_frames(f"{official}/", np.repeat(picture, 3, 0), fps=5)
    for number, frame in enumerate(sorted(official.glob("*.png"))):
        frame.rename(official / f"frame_{number}.png")
        np.save(official / f"frame_{number}_densepose.npy", np.zeros((2, 16, 12), np.float32))
    (name, clip), *others = suite.test_clips(official.parent)
    assert (name, clip.frames, clip.poses, others) == ("clip", official, official, [])
    assert len(open_poses(clip.poses)) == 3
    media.write_frames(tmp_path / "deep-d.mp4", picture, fps=5)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(EvaluationError, match="two clips called deep-d"):
        suite.test_clips(tmp_path)


def test_rows_are_those_of_the_paper():
    guidance = {"image": 1.0, "pose": 3.0}
    rows = {row.key: row for row in variants_of(tuned=False, ablations=True, against=["uv"], guidance=guidance)}
    assert list(rows) == [
        "copied", "untuned", "full", "uv", "uv-untuned", "no-decoder", "repeated-pose", "smoothed",
        "photos-3", "photos-5", "photos-7",
        "image-guidance-2", "image-guidance-4", "image-guidance-8",
        "pose-guidance-1", "pose-guidance-2", "pose-guidance-4", "pose-guidance-8",
    ]  # fmt: skip
    assert (rows["uv"].baseline, rows["uv-untuned"].baseline, rows["no-decoder"].baseline) == ("full", "untuned", "full")
    assert rows["no-decoder"].source == rows["full"].source  # tuned once
    plain = variants_of(tuned=False, ablations=False, against=["uv"], guidance=guidance)
    assert [row.key for row in plain] == ["copied", "untuned", "uv-untuned"]


def test_frames_are_fifty_after_the_photo_or_half_a_clip():
    assert chosen_rows(300, SuiteOptions(Path("d"), Path("o"))) == (50, range(50, 100))
    assert chosen_rows(24, SuiteOptions(Path("d"), Path("o"))) == (12, range(12, 24))
    assert chosen_rows(24, SuiteOptions(Path("d"), Path("o"), min_gap=4, frames=6)) == (4, range(4, 10))
    assert photo_rows(12, 1) == [0]
    assert photo_rows(12, 7) == [0, 2, 4, 6, 7, 9, 11]


def test_a_run_leaves_frames_figures_and_how_to_repeat_it(whole, dataset):
    folder, document, found = whole
    assert json.loads(json.dumps(document, default=str)) == json.loads((folder / "results.json").read_text())
    assert document["bases"]["base"]["name"] == "tiny"
    assert document["bases"]["base"]["fingerprint"] == document["bases"]["twin"]["fingerprint"]
    assert document["settings"]["tune_steps"] == 1 and document["command"].startswith("dreampose eval")
    assert document["clips"] == ["mannequin-000000", "mannequin-000001", "mannequin-000002"]
    assert "3 test clips of clips" in document["statement"] and "bases know mannequins" in document["statement"]
    variants = document["summary"]["variants"]
    for key, row in variants.items():
        assert set(row["metrics"]) == set(METRICS)
        assert len(list((folder / "frames" / key / "mannequin-000000").iterdir())) == 4
        assert row["reasons"]["aed"]
    assert found.metrics == variants["full"]["metrics"]
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert len(rows) == len(variants) * 4
    mean = next(row for row in rows if (row["variant"], row["name"]) == ("full", "(mean)"))
    assert float(mean["ssim"]) == found.metrics["ssim"]
    # and the figures are those of eval on the folders
    again = evaluate(folder / "frames" / "untuned", folder / "reference", poses=folder / "poses")
    assert again.metrics == variants["untuned"]["metrics"]


def test_rows_are_what_they_say(whole, dataset):
    folder, document, _ = whole

    def clip(key):
        return np.stack(list(media.open_frames(folder / "frames" / key / "mannequin-000001")))

    photo = media.read_photo(dataset / "test" / "mannequin-000001" / "frames" / "00000.png")
    truth = np.stack(list(media.open_frames(dataset / "test" / "mannequin-000001" / "frames")))
    assert (clip("copied") == photo).all()
    assert (np.stack(list(media.open_frames(folder / "reference" / "mannequin-000001"))) == truth[8:12]).all()
    assert (clip("twin") == clip("full")).all()
    assert (clip("twin-untuned") == clip("untuned")).all()
    for other in ("untuned", "no-decoder", "repeated-pose", "photos-3", "image-guidance-4"):
        assert (clip(other) != clip("full")).any(), other
    assert (clip("smoothed") == np.stack(smooth(list(clip("full"))))).all()
    assert document["summary"]["variants"]["copied"]["metrics"]["flicker"] == 0


def test_differences_are_paired_and_judged_by_their_spread(whole):
    _, document, _ = whole
    summary = document["summary"]
    twin = [c for c in summary["comparisons"] if c["variant"] == "twin"]
    assert {c["difference"] for c in twin} == {0.0} and {c["verdict"] for c in twin} == {"no difference"}
    found = next(c for c in summary["comparisons"] if (c["variant"], c["metric"]) == ("smoothed", "sharpness"))
    ours, theirs = (summary["variants"][key]["subjects"] for key in ("smoothed", "full"))
    values = [ours[name]["sharpness"] - theirs[name]["sharpness"] for name in ours]
    assert found["difference"] == pytest.approx(np.mean(values))
    assert found["spread"] == pytest.approx(np.std(values, ddof=1))
    assert found["subjects"] == 3


@pytest.mark.parametrize(
    ("metric", "theirs", "ours", "verdict"),
    [
        ("ssim", [0.8, 0.8, 0.8], [0.9, 0.91, 0.9], "better"),
        ("ssim", [0.8, 0.8, 0.8], [0.7, 0.71, 0.7], "worse"),
        ("l1", [0.8, 0.8, 0.8], [0.7, 0.71, 0.7], "better"),
        ("ssim", [0.8, 0.8, 0.8], [0.9, 0.7, 0.83], "no difference"),
        ("ssim", [0.8, 0.8], [0.9, 0.9], "too few subjects to tell"),
        ("sharpness", [0.5, 0.5, 0.5], [0.9, 0.91, 0.9], "better"),
        ("sharpness", [0.9, 0.9, 0.9], [1.9, 1.91, 1.9], "worse"),
        ("warp", [0.1, 0.1, 0.1], [0.2, 0.21, 0.2], "higher"),
    ],
)
def test_verdicts(metric, theirs, ours, verdict):
    rows = variants_of(tuned=True, ablations=False, against=[], guidance={})[1:]
    figures = {
        key: {str(i): {metric: value} for i, value in enumerate(values)}
        for key, values in (("untuned", theirs), ("full", ours))
    }
    (found,) = compare(rows, figures)
    assert found["verdict"] == verdict


def test_backs_and_fronts_are_told_by_the_torso(whole):
    pose = np.zeros((3, 4, 4), np.float32)
    assert view_of(pose) is None
    pose[0, 0] = 1
    assert view_of(pose) == "back"
    pose[0, 1:] = 2
    assert view_of(pose) == "front"
    assert mean_where([1, 2, float("nan"), 4], ["back", "front", "back", "back"], "back") == 2.5
    assert mean_where([1], ["front"], "back") is None
    folder, document, _ = whole
    views = document["summary"]["views"]
    counted = [view_of(frame) for file in (folder / "poses").glob("m*.poses") for frame in open_poses(file)]
    assert {view: found["frames"] for view, found in views.items()} == {
        view: counted.count(view) for view in ("back", "front") if view in counted
    }
    for found in views.values():
        assert 0 <= found["metrics"]["full"]["ssim"] <= 1


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(dataset, tiny_base, tmp_path, monkeypatch):
    folder, real, calls = tmp_path / "run", suite_clips.render, []

    def counting(options, **words):
        calls.append(options.output)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(options, **words)

    monkeypatch.setattr(suite_clips, "render", counting)
    options = {"base": str(tiny_base), "tune": True, "clips": 2, **FAST}
    with pytest.raises(KeyboardInterrupt):
        suite.suite(SuiteOptions(dataset, folder, **options))
    assert not (folder / "results.json").exists()
    before = (folder / "frames" / "full" / "mannequin-000000" / "00000.png").stat().st_mtime_ns
    assert not (folder / "frames" / "untuned" / "mannequin-000001").exists()
    document, _ = suite.suite(SuiteOptions(dataset, folder, **options))
    assert len(calls) == 3 + 2  # what was there is not rendered again
    assert (
        store.user_cache().list_entries() == [] and store.user_cache().last_subject() is None
    )  # the user's own cache stays as it is
    assert (folder / "frames" / "full" / "mannequin-000000" / "00000.png").stat().st_mtime_ns == before
    assert document["summary"]["variants"]["full"]["clips"] == 2
    calls.clear()
    document, _ = suite.suite(SuiteOptions(dataset, folder, base=str(tiny_base), tune=True, **FAST))
    assert len(calls) == 2 and document["summary"]["variants"]["full"]["clips"] == 3  # another clip is added
    with pytest.raises(EvaluationError, match=r"other settings \(settings\)"):
        suite.suite(SuiteOptions(dataset, folder, base=str(tiny_base), steps=2))
    with pytest.raises(EvaluationError, match="base base"):
        suite.suite(SuiteOptions(dataset, folder, base="mini", **FAST))


@pytest.mark.slow
def test_short_clips_have_no_seven_photos(dataset, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "GUIDANCE", (1.0,))
    notes = []
    settings = {"min_gap": 4, "frames": 2, "steps": 1, "tune_steps": 0, "decoder_steps": 0}
    options = SuiteOptions(dataset, tmp_path / "run", base=str(tiny_base), ablations=True, clips=1, **settings)
    document, _ = suite.suite(options, note=notes.append)
    assert "photos-3" in document["summary"]["variants"] and "photos-7" not in document["summary"]["variants"]
    assert any("no 7 different frames" in text for text in notes)


def run(*words, capsys):
    code = main(["eval", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command(dataset, tiny_base, tmp_path, capsys):
    folder, page = tmp_path / "run", tmp_path / "run" / "r.html"
    words = ["--suite", dataset, "--base", tiny_base, "--clips", 1, "--steps", 1, "-o", folder]
    code, out, _ = run(*words, "--report", page, capsys=capsys)
    assert code == 0
    assert out.splitlines()[0].split()[:2] == ["L1", "PSNR"]
    assert "the photo, copied" in out and " ?" in out and "protocol: 1 test clip of" in out
    assert page.exists()
    code, out, _ = run(*words, "--json", capsys=capsys)
    document = json.loads(out)
    assert code == 0 and document["summary"]["variants"]["untuned"]["metrics"]["ssim"] > 0
    code, _, err = run(*words, "--fail-under", "ssim=1", capsys=capsys)
    assert code == 1 and "ssim is" in err


def test_clips_that_a_base_was_trained_on_are_refused(dataset, tiny_base, tmp_path):
    """Also where it was trained further since."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    about = json.loads((base / "base.json").read_text())
    clip = sorted((dataset / "test").iterdir())[1]
    about["provenance"] = {"trained_on": ["0" * 16], "from": {"trained_on": [content_mark(clip / "frames")]}}
    (base / "base.json").write_text(json.dumps(about))
    options = SuiteOptions(dataset, tmp_path / "run", base=str(tiny_base), compare={"other": str(base)}, **FAST)
    with pytest.raises(EvaluationError, match=f"was trained on {clip.name} of .*would make every score too good; put"):
        suite.suite(options)
    assert not (tmp_path / "run").exists()


def test_bad_requests_are_one_sentence(dataset, tiny_base, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    start = ["--suite", dataset, "--base", tiny_base]
    for words, code, sentence in (
        ([*start, "-o", tmp_path / "x", "clip.mp4"], 2, "leave out clips"),
        (["--tune", "a.mp4", "b.mp4"], 2, "go with --suite"),
        (["--dtype", "float32", "a.mp4", "b.mp4"], 2, "go with --suite"),
        ([], 2, "needs PREDICTED and REFERENCE"),
        ([*start, "-o", tmp_path / "x", "--compare", "uv"], 2, "must be NAME=BASE"),
        ([*start, "-o", tmp_path / "x", "--compare", f"untuned={tiny_base}"], 2, "choose another name for it"),
        ([*start, "-o", tmp_path / "x", "--compare", f"base={tiny_base}"], 2, "choose another name for it"),
        ([*start, "-o", taken], 1, "holds thesis.txt, but no suite"),
        ([*start, "-o", taken / "thesis.txt"], 1, "is a file"),
        ([*start, "-o", tmp_path / "x", "--min-gap", 40], 1, "give a smaller --min-gap"),
        (["--suite", tmp_path / "empty", "--base", tiny_base, "-o", tmp_path / "x"], 1, "holds no clips"),
        (["--suite", tmp_path / "gone", "--base", tiny_base, "-o", tmp_path / "x"], 1, "is no folder of clips"),
        (["--suite", dataset, "--base", tmp_path / "gone", "-o", tmp_path / "y"], 1, "gone"),
        ([*start, "-o", tmp_path / "z", "--report", tmp_path / "r.txt"], 2, "end its name in .html"),
    ):
        found, out, err = run(*words, capsys=capsys)
        assert (found, out) == (code, ""), words
        assert sentence in err and err.count("\n") == 1, err
    assert (taken / "thesis.txt").read_text() == "mine"
    with pytest.raises(UsageError):
        suite.suite(SuiteOptions(dataset, tmp_path / "x", base=str(tiny_base), compare={"copied": str(tiny_base)}))


# ---- the report


def test_a_report_of_a_suite_is_one_page_without_network(whole, tmp_path):
    from dreampose_cli.evaluation.report import write_report

    _, document, found = whole
    text = write_report(tmp_path / "r.html", found, title="tiny <b>on</b> clips", suite=document).read_text()
    assert "tiny &lt;b&gt;on&lt;/b&gt; clips" in text
    for heading in ("Metrics", "Variants", "Ablation", "Differences", "Backs and fronts", "Side by side", "Worst frames",
                    "Best frames", "Frame by frame", "Clips", "published elsewhere"):  # fmt: skip
        assert heading in text, heading
    for word in ("AnimateAnyone", "no decoder tuning", "3 photos", document["statement"].split(";")[0]):
        assert word in text
    sources = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\' >)]+)', text)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "<script" not in text and "http://" not in text and "https://" not in text
    assert text.count("<video") >= 1 and text.count("<svg") > 5


def test_a_report_of_one_pair(whole, tmp_path, capsys):
    folder, *_ = whole
    clip, page = "mannequin-000000", tmp_path / "r.html"
    words = [folder / "frames" / "full" / clip, folder / "reference" / clip, "--report", page]
    assert run(*words, capsys=capsys)[0] == 0
    text = page.read_text()
    assert "Frame by frame" in text and "Variants" not in text
    code, _, err = run(*words, capsys=capsys)
    assert code == 1 and "--overwrite" in err
    assert page.read_text() == text


def test_frames_that_are_worse_than_unlike_are_named_by_their_ssim(tmp_path, capsys):
    picture = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), dtype=np.uint8)
    media.write_frames(f"{tmp_path}/a/", picture, fps=5)
    media.write_frames(f"{tmp_path}/b/", 255 - picture, fps=5)
    for options, words in (((), "SSIM -0."), (("--metrics", "l1"), "L1 0.")):
        page = tmp_path / f"r{len(options)}.html"
        assert run(tmp_path / "a", tmp_path / "b", "--report", page, *options, capsys=capsys)[0] == 0
        assert f"frame 0: {words}" in page.read_text(encoding="utf-8")


# ---- the tables of docs/results.md


@pytest.fixture(scope="module")
def ablations():
    path = Path(__file__).parent.parent / "benchmarks" / "ablations.py"
    if not path.exists():
        pytest.skip("the benchmarks are not part of this copy")
    spec = importlib.util.spec_from_file_location("ablations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_come_from_the_results(whole, ablations, tmp_path, dataset):
    folder, document, _ = whole
    output, page = tmp_path / "out", tmp_path / "results.md"
    output.mkdir()
    (output / "suite-mini").symlink_to(folder)
    page.write_text(f"before\n\n{ablations.BEGIN}\nold\n{ablations.END}\n\nafter\n")
    ablations.write_tables(output, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    ssim = document["summary"]["variants"]["full"]["metrics"]["ssim"]
    row = next(line for line in text.splitlines() if line.startswith("| tuned, full |"))
    assert f"| {ssim:.4f} ± " in row and row.endswith("| 0.019 / 0.900 / 0.207 / 0.056 |")
    assert "the decoder phase sharpens" in text and "more photos help" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("| the paper's finding")} == {5}
    strip = media.read_photo(tmp_path / "images" / "suite-mini.jpg")  # the truth, and a row for each variant
    assert strip.shape == (48 * (1 + len(ablations.shown_rows(document))), 150 + 6 * 32, 3)
    assert "](images/suite-mini.jpg)" in text
    page.write_text("no place")
    with pytest.raises(SystemExit, match="no place for tables"):
        ablations.write_tables(output, page)
    with pytest.raises(SystemExit, match="holds no results"):
        list(ablations.page(tmp_path / "nothing"))


def test_a_base_that_dresses_nobody_is_not_compared(ablations):
    def rows(full, other):
        scores = {"untuned": ("base", full), "full": ("base", 0.9), "uv": ("uv", 0.9), "uv-untuned": ("uv", other)}
        return {
            key: {"variant": {"base": base}, "title": key, "metrics": {"ssim": ssim}} for key, (base, ssim) in scores.items()
        }

    assert ablations.undressed(rows(0.85, 0.8), "uv") is None
    assert ablations.undressed(rows(0.85, 0.79), "uv") == "the SSIM of uv-untuned is 0.7900, under 0.80"
    assert ablations.undressed(rows(0.85, 0.7998), "uv") == "the SSIM of uv-untuned is 0.7998, under 0.80"
    assert ablations.undressed(rows(0.79, 0.85), "uv") == "the SSIM of untuned is 0.7900, under 0.80"
    comparison = {"variant": "uv", "metric": "ssim", "difference": -0.1, "spread": 0.01, "verdict": "worse", "title": "uv - full"}
    for ssim, words in ((0.85, "SSIM -0.1000 ± 0.0100 (worse)"), (0.79, "not compared: the SSIM of uv-untuned is 0.79")):
        summary = {"variants": rows(0.85, ssim), "comparisons": [comparison], "views": {}}
        table = list(ablations.questions({"bases": {"summary": summary}}))
        (line,) = (line for line in table if line.startswith("| UV alone"))
        assert words in line


def test_bases_that_are_compared_differ_in_one_option(ablations, tmp_path):
    chosen = ablations.argparse.Namespace(output=tmp_path, base="mini", steps=5, size="64x80", device="cpu", dtype="auto")
    commands = {name: list(map(str, ablations.training(chosen, name))) for name in ablations.VARIANTS}
    plain = [word for word in commands["full"] if word != str(tmp_path / "bases" / "full")]
    assert plain.count("--seed") == 1 and plain[plain.index("--size") + 1] == "64x80"
    for name, words in commands.items():
        rest = [word for word in words if word != str(tmp_path / "bases" / name)]
        for word in ablations.VARIANTS[name]:
            rest.remove(word)
        again = "--seed" in ablations.VARIANTS[name]
        assert rest == [word for word in plain if not again or word not in ("--seed", "0")], name
