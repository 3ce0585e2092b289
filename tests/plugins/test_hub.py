"""worldlab_hub against a stand-in of the Hub that speaks HTTP: out, back, refused, broken off. The client is the real one."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from hub_kit import READER, TOKEN, Repo, serving, sha256

import worldlab
from worldlab import cli
from worldlab.errors import CheckpointError, ConfigError, PluginError, StorageError
from worldlab.registry import load_registry
from worldlab.runs import bundle as bundles
from worldlab.runs import pull
from worldlab.runs.best import keep_best, open_best
from worldlab.runs.digests import seal
from worldlab.runs.find import find_run, list_runs
from worldlab.runs.folder import RunFolder
from worldlab.runs.weights import holds_weights_only

pytest.importorskip("huggingface_hub", reason='pip install "worldlab[hub]"')
import yaml
from huggingface_hub import constants, file_download

TINY = {
    "train": {"prefill": 60, "pretrain": 1, "ratio": 0.02, "batch_size": 2, "batch_length": 8, "starts": 8},
    "env.time_limit": 20,
    "eval": {"every": 0, "final_episodes": 3, "dream_horizon": 0},
    "log": {"pictures": 0, "track": [], "checkpoint": 60},
}
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # the client's own call
NAME, ADDRESS = "me/first", "hf:me/first"
REGISTRY = load_registry()


def train(folder, **more):
    return worldlab.train(
        "CartPole", preset="debug", settings=TINY, size="nano", steps=90, device="cpu", run=folder, **more
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained run with a picture."""
    run = train(tmp_path_factory.mktemp("made") / "first", strict=True)
    (run.path / "videos" / "dream-000000090.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return run.path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, for whose owner the client has a token; runs/ is in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has the older way only
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        # The client reads it when it is imported, which another test may have done.
        monkeypatch.setattr(constants, "HF_URL_HOSTS", constants.HF_URL_HOSTS | {"127.0.0.1"})
        yield found
        assert found.problems == []


@pytest.fixture(scope="module")
def published():
    """What the first push of this file published; the others need not be made again."""
    return {}


@pytest.fixture
def pushed(hub, made, published):
    if not published:
        assert cli.main(["push", str(made), ADDRESS]) == 0
        published.update(hub.repos[NAME].commits)
    hub.repos[NAME] = Repo(commits=dict(published))
    return hub


def command(capsys, *argv):
    """Run a command; return its exit code, its JSON and what it says."""
    capsys.readouterr()
    code = cli.main([*argv, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


# ---- out and back ----


def test_a_pulled_run_has_the_scores_of_the_run_that_was_pushed(pushed, made, capsys):
    code, result, _ = command(capsys, "pull", ADDRESS, "runs/mine")
    assert code == 0 and result["run"] == "runs/mine" and result["plugins"] == "none"
    assert result["version"] == pushed.repos[NAME].head
    _, mine, _ = command(capsys, "eval", "runs/mine", "--episodes", "2", "--seed", "3")
    _, own, _ = command(capsys, "eval", str(made), "--episodes", "2", "--seed", "3")
    _, there, _ = command(capsys, "eval", ADDRESS, "--episodes", "2", "--seed", "3")
    assert mine["returns"] == own["returns"] == there["returns"] and mine["lengths"] == own["lengths"]
    assert RunFolder.open("runs/mine").read_result() == RunFolder.open(made).read_result()
    assert json.loads(Path("runs/mine/pulled.json").read_text()) == {
        "from": ADDRESS,
        "version": pushed.repos[NAME].head,
    }
    assert cli.main(["verify", "runs/mine"]) == 0


def test_only_weights_texts_pictures_and_the_card_are_published(pushed, made):
    weights = {f"checkpoints/step-000000090/{name}.safetensors" for name in ("model", "agent")}
    texts = {"config.toml", "run.json", "result.json", "metrics.jsonl", "digests.json", "bundle.json", "README.md"}
    states = {f"checkpoints/step-000000090/{name}.json" for name in ("manifest", "state")}
    pictures = {"videos/dream-000000090.png"}
    assert set(pushed.files(NAME)) == {".gitattributes", *weights, *texts, *states, *pictures}
    for name in weights:
        assert pushed.files(NAME)[name] == (made / name).read_bytes()
    assert not list(made.parent.glob(".stage-*")) and not pushed.repos[NAME].private


def test_the_card_says_what_the_run_is_and_how_sure_its_score_is(hub, made):
    assert cli.main(["push", str(made), ADDRESS, "--license", "mit", "--private"]) == 0
    text = hub.files(NAME)["README.md"].decode()
    _, header, body = text.split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["license"] == "mit" and facts["library_name"] == "worldlab" and "CartPole-v1" in facts["tags"]
    metric = facts["model-index"][0]["results"][0]["metrics"][0]
    result = RunFolder.open(made).read_result()
    assert metric["value"].startswith(f"{result['return_mean']:.2f} +/-") and "one seed" in metric["name"]
    assert "One seed: the interval covers the luck of the episodes" in body and "[95% over episodes]" in body
    assert "worldlab train --env CartPole --encoder vae" in body and "--strict" in body
    assert sha256((made / "config.toml").read_bytes()) in body
    assert "![dream](videos/dream-000000090.png)" in body and "`mit`" in body
    assert hub.repos[NAME].private
    assert find_run(ADDRESS, registry=REGISTRY).is_dir()  # its owner may fetch it


def test_without_a_flag_no_licence_is_stated(pushed):
    text = pushed.files(NAME)["README.md"].decode()
    assert "license" not in yaml.safe_load(text.split("---\n")[1]) and "No licence is stated." in text


def test_paths_of_this_machine_are_not_published(hub, made, tmp_path):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    folder = RunFolder.open(copy)
    folder.write_config(folder.config.read_text().replace('data = ""', 'data = "npz:/home/me/secret/set"'))
    folder.write_run_json({"data": {"source": "/home/me/secret/set", "sha256": "0" * 64, "decisions": 3}})
    assert cli.main(["push", str(copy), ADDRESS]) == 0
    files = hub.files(NAME)
    assert not [name for name, data in files.items() if b"/home/me" in data]
    assert b'data = "npz:set"' in files["config.toml"] and b"`set`, 3 decisions" in files["README.md"]
    assert find_run(ADDRESS, registry=REGISTRY).is_dir()  # the digests are those of the shortened texts


def test_a_run_is_loaded_dreamt_and_finetuned_by_its_address(pushed, made, capsys):
    run = worldlab.load(ADDRESS)
    assert run.path.parent == Path("runs/hf/me") and run.evaluate(episodes=1)["episodes"] == 1
    assert list_runs() == []  # it is no run of this folder, and never the latest one
    code, result, _ = command(capsys, "dream", ADDRESS, "--horizon", "2", "--count", "1", "--out", "drawn")
    assert code == 0 and result["files"] == ["drawn/dream-000000090.png"]
    assert command(capsys, "record", "--agent", ADDRESS, "--episodes", "1", "--out", "played")[0] == 0
    code, _, err = command(capsys, "export", ADDRESS, "--format", "npz", "--out", "npz")
    assert code == 2 and "no data set at 'runs/hf/me/first-" in err
    fine = train("runs/fine", finetune=ADDRESS)
    said = RunFolder.open(fine.path).read_run_json()["finetune"]
    assert said["fresh"] == [] and said["step"] == 90
    fetched = [line for line in pushed.asked if line.startswith("GET") and line.endswith("bundle.json")]
    assert len(fetched) == 1  # not once for each command


def test_a_run_without_experience_says_why_it_cannot_go_on(pushed, capsys):
    command(capsys, "pull", ADDRESS, "runs/mine")
    before = {path: path.stat().st_mtime_ns for path in Path("runs/mine/checkpoints").rglob("*")}
    code, _, err = command(capsys, "train", "--run", "runs/mine", "--resume", "--steps", "120")
    assert code == 7 and "run 'mine' holds weights without experience: it cannot go on" in err
    assert "--finetune runs/mine" in err
    assert {path: path.stat().st_mtime_ns for path in Path("runs/mine/checkpoints").rglob("*")} == before
    code, _, err = command(capsys, "train", "--run", ADDRESS, "--resume")
    assert code == 2 and f"worldlab pull {ADDRESS}" in err


def test_with_its_replay_a_pulled_run_goes_on_exactly(hub, made, capsys):
    assert cli.main(["push", str(made), ADDRESS, "--replay"]) == 0
    command(capsys, "pull", ADDRESS, "runs/mine")
    shutil.copytree(made, "own")
    for folder in ("runs/mine", "own"):
        assert cli.main(["train", "--run", folder, "--resume", "--steps", "100"]) == 0
    assert RunFolder.open("runs/mine").read_run_json()["resumed"][-1]["exact"]
    model = "checkpoints/step-000000100/model.safetensors"
    assert Path("runs/mine", model).read_bytes() == Path("own", model).read_bytes()


def test_a_second_push_replaces_the_first_and_leaves_what_others_added(pushed, made, tmp_path):
    first = pushed.repos[NAME].head
    pushed.repos[NAME].commit({**pushed.files(NAME), "NOTES.md": b"mine", "videos/dream-000000001.png": b"old"})
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    (copy / "videos" / "dream-000000090.png").unlink()
    assert cli.main(["push", str(copy), ADDRESS]) == 0
    files = pushed.files(NAME)
    assert files["NOTES.md"] == b"mine" and not [name for name in files if name.startswith("videos/")]
    old = find_run(f"{ADDRESS}@{first}", registry=REGISTRY)
    assert (old / "videos" / "dream-000000090.png").is_file()
    new = find_run(ADDRESS, registry=REGISTRY)
    assert new != old and not (new / "videos").exists()


def test_the_checkpoint_of_the_best_evaluation_is_published_too(hub, made, tmp_path):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    keep_best(copy / "checkpoints" / "step-000000090", 60)
    assert cli.main(["push", str(copy), ADDRESS]) == 0
    best = open_best(find_run(ADDRESS, registry=REGISTRY) / "checkpoints")
    assert best.path.name == "best-000000060" and best.names == ("agent", "model") and holds_weights_only(best)


def test_two_processes_may_fetch_the_same_run(pushed, monkeypatch):
    publish = pull.storage.publish_folder

    def slower(staging, final):
        shutil.copytree(staging, final)  # the other process was first
        publish(staging, final)

    monkeypatch.setattr(pull.storage, "publish_folder", slower)
    found = find_run(ADDRESS, registry=REGISTRY)
    assert worldlab.load(found).result["episodes"] == 3 and len(list(found.parent.iterdir())) == 1


def test_a_commit_that_is_here_needs_no_network(pushed, capsys):
    commit = pushed.repos[NAME].head
    first = find_run(f"{ADDRESS}@{commit}", registry=REGISTRY)
    asked = len(pushed.asked)
    assert find_run(f"{ADDRESS}@{commit}", registry=REGISTRY) == first and len(pushed.asked) == asked


# ---- code of others ----

PLUGIN = """
from worldlab import hookimpl
from worldlab_vae.configs import VAEEncoderConfig

open({ran!r}, "w").close()

@hookimpl
def worldlab_register(register):
    register.encoder("mine", "worldlab_vae.encoder:VAEEncoder", config=VAEEncoderConfig, summary="a copy")
"""


def test_a_run_that_needs_a_plugin_names_it_and_never_imports_it(hub, tmp_path, capsys):
    file, ran = tmp_path / "mine.py", tmp_path / "ran"
    file.write_text(PLUGIN.format(ran=str(ran)))
    train("own", encoder="mine", plugins=[file])
    assert cli.main(["push", "own", ADDRESS, "--plugin", str(file)]) == 0
    assert "It needs the code in `plugins/mine.py`, which nothing imports" in hub.files(NAME)["README.md"].decode()
    ran.unlink()
    code, result, _ = command(capsys, "pull", ADDRESS, "runs/mine")
    assert code == 0 and result["plugins"] == ["plugins/mine.py"]
    code, _, err = command(capsys, "eval", "runs/mine", "--episodes", "1")
    assert code == 3 and "needs encoder 'mine' from file:mine.py" in err
    assert "--plugin runs/mine/plugins/mine.py" in err and not ran.exists()
    assert command(capsys, "eval", "runs/mine", "--episodes", "1", "--plugin", "runs/mine/plugins/mine.py")[0] == 0


# ---- what is refused ----


def replaced(hub, change):
    """Commit a version whose files and listing `change` has edited; the listing is sealed again."""
    files = dict(hub.files(NAME))
    listing = json.loads(files["bundle.json"])
    change(files, listing["files"])
    files["bundle.json"] = json.dumps(seal(listing)).encode()
    hub.repos[NAME].commit(files)


def adds(name, data=b"x", **entry):
    def change(files, listing):
        files[name] = data
        listing[name] = {"bytes": len(data), "sha256": sha256(data), **entry}

    return change


def edits(name, data):
    """Another content, of which the listing knows."""

    def change(files, listing):
        files[name] = data(files[name])
        listing[name] = {"bytes": len(files[name]), "sha256": sha256(files[name])}

    return change


def leaves_out(*names):
    def change(files, listing):
        for name in names:
            del listing[name]

    return change


def spoils(name, data):
    """Another content, of which the listing does not know."""
    return lambda files, listing: files.update({name: data(files[name])})


MODEL = "checkpoints/step-000000090/model.safetensors"
STEP = tuple(f"checkpoints/step-000000090/{n}" for n in ("manifest.json", "state.json", "model.safetensors"))
HOSTILE = {
    "a pickle by name": (adds("checkpoints/step-000000090/model.pkl"), "it is a pickle or an archive of pickles"),
    "a torch file": (adds("model.pt"), "it is a pickle or an archive of pickles"),
    "a pickle under the name of weights": (edits(MODEL, lambda data: b"\x80\4K\1."), "size differs"),
    "a name with ..": (adds("../outside.json"), "its name leads out of the folder"),
    "a hidden ..": (adds("checkpoints/../../outside.json"), "its name leads out of the folder"),
    "an absolute name": (adds("/tmp/outside.json"), "its name leads out of the folder"),
    "a drive": (adds("C:\\outside.json"), "its name leads out of the folder"),
    "control characters": (adds("videos/\x1b[31m.png"), "its name has control characters"),
    "a file of no run": (adds("sitecustomize.py"), "no run publishes a file of this name"),
    "a hidden file": (adds("plugins/.pth"), "no run publishes a file of this name"),
    "an unknown size": (adds("videos/a.png", bytes=-1), "does not give its size and SHA-256"),
    "no hash": (adds("videos/a.png", sha256=3), "does not give its size and SHA-256"),
    "a larger file": (spoils("config.toml", lambda data: data + b"#" * 100), "at most"),
    "a smaller file": (spoils("config.toml", lambda data: data[:-1]), "its size differs"),
    "another content": (spoils(MODEL, lambda data: data[:-1] + b"\0"), "its hash differs from the declared one"),
    "an edited score": (edits("result.json", lambda data: data.replace(b": 90", b": 91")), "is not as worldlab wrote it"),
    "an edited weight": (edits(MODEL, lambda data: data[:-1] + b"\0"), "hash differs"),
    "no configuration": (leaves_out("config.toml"), "config.toml is missing"),
    "no checkpoint": (leaves_out(*STEP, "checkpoints/step-000000090/agent.safetensors"), "it has no checkpoint"),
    "half a checkpoint": (leaves_out(MODEL), "model.safetensors cannot be read"),
    "too much": (adds("videos/a.png", bytes=2**40), "more than the 4.3 GB that are accepted"),
}  # fmt: skip


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_run_is_refused_in_one_sentence_and_leaves_nothing(title, pushed, capsys, tmp_path):
    change, expected = HOSTILE[title]
    replaced(pushed, change)
    for argv in (["pull", ADDRESS, "runs/mine"], ["eval", ADDRESS]):
        code, _, err = command(capsys, *argv)
        sentence = next(line for line in err.splitlines() if not line.startswith("pulling "))
        assert code == 7 and expected in f"{sentence} {err}" and len(sentence) <= 110, err
        assert all(c.isprintable() or c == "\n" for c in err)
    assert [path for path in Path("runs").rglob("*") if path.is_file()] == []
    assert not Path("/tmp/outside.json").exists() and not list(tmp_path.rglob("outside.json"))


def test_a_listing_that_was_edited_or_is_none_is_refused(pushed):
    files = pushed.files(NAME)
    for data, expected in (
        (files["bundle.json"].replace(b'"bytes": ', b'"bytes": 1'), "its own hash differs"),
        (b"[]", "does not list the files of a run"),
        (b"[" * 100_000, "cannot be read"),
        (json.dumps(seal({"format": "worldlab-bundle", "format_version": 9})).encode(), "newer worldlab"),
    ):
        pushed.repos[NAME].commit({**files, "bundle.json": data})
        with pytest.raises(CheckpointError, match=expected):
            find_run(ADDRESS, registry=REGISTRY)


def test_a_listing_of_any_length_is_not_read(pushed):
    pushed.repos[NAME].commit({**pushed.files(NAME), "bundle.json": b" " * (bundles.LISTING_LIMIT + 1)})
    with pytest.raises(CheckpointError, match="at most 4194304 were declared"):
        find_run(ADDRESS, registry=REGISTRY)


def test_a_link_in_a_run_is_not_published(hub, made, tmp_path, capsys):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    secret = tmp_path / "secret"
    secret.write_text("do not publish")
    (copy / "videos" / "dream-000000090.png").unlink()
    (copy / "videos" / "dream-000000090.png").symlink_to(secret)
    code, _, err = command(capsys, "push", str(copy), ADDRESS)
    assert code == 7 and "'videos/dream-000000090.png' is refused" in err and NAME not in hub.repos


def test_an_edited_score_is_not_published(hub, made, tmp_path, capsys):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    (copy / "result.json").write_text((copy / "result.json").read_text().replace(": 90", ": 91"))
    code, _, err = command(capsys, "push", str(copy), ADDRESS)
    assert code == 7 and "result.json is not as worldlab wrote it" in err and NAME not in hub.repos


# ---- what can go wrong on the way ----


def test_an_interrupted_download_leaves_nothing(pushed, monkeypatch, capsys):
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    pushed.cut.add(MODEL)
    code, _, err = command(capsys, "pull", ADDRESS, "runs/mine")
    assert code == 6 and "the connection broke" in err
    assert list(Path("runs").iterdir()) == []
    pushed.cut.clear()
    assert command(capsys, "pull", ADDRESS, "runs/mine")[0] == 0


def test_ctrl_c_leaves_nothing(pushed, monkeypatch):
    from worldlab_hub.store import HubStore

    fetch = HubStore.fetch

    def interrupted(self, run, file, folder, limit):
        if file == "result.json":
            raise KeyboardInterrupt
        return fetch(self, run, file, folder, limit)

    monkeypatch.setattr(HubStore, "fetch", interrupted)
    assert cli.main(["pull", ADDRESS, "runs/mine"]) == 130
    assert list(Path("runs").iterdir()) == []


def test_a_missing_run_and_one_of_others_are_told_apart_from_a_missing_network(pushed, monkeypatch, capsys):
    code, _, err = command(capsys, "eval", "hf:me/frist")
    assert code == 2 and "it is not there, or you may not do this with it" in err and "the hub answered 404" in err
    pushed.repos[NAME].private = True
    for token, status in ((READER, 404), ("hf_Expired", 401)):
        monkeypatch.setenv("HF_TOKEN", token)
        code, _, err = command(capsys, "eval", ADDRESS)
        assert code == 2 and f"the hub answered {status}" in err and "hf auth login" in err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = command(capsys, "eval", ADDRESS)
    assert code == 6 and "the hub cannot be reached" in err and "check the network" in err


def test_who_may_not_write_is_told_so(pushed, made, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", READER)
    for name in (NAME, "me/second"):
        code, _, err = command(capsys, "push", str(made), f"hf:{name}")
        assert code == 2 and "the hub answered 403" in err and "HF_TOKEN" in err, err
    assert len(pushed.repos[NAME].commits) == 2 and "me/second" not in pushed.repos


def test_a_server_that_is_down_is_named_so(pushed, made, capsys):
    pushed.status = 500
    code, _, err = command(capsys, "push", str(made), ADDRESS)
    assert code == 6 and "the hub answered 500" in err and "try again later" in err


def test_a_repository_that_is_no_run(hub, capsys):
    hub.repos["some/model"] = Repo()
    hub.repos["some/model"].commit({"pytorch_model.bin": b"\x80\4K\1."})
    code, _, err = command(capsys, "eval", "hf:some/model")
    assert code == 7 and "lacks 'bundle.json': it is no run that worldlab has published" in err
    assert not [line for line in hub.asked if "pytorch_model" in line]


NO_ADDRESS = "me", "me/first/x", "../x", "me/fi rst", "me/first@", "me/first@../main", "me/..", "https://x.y/z"


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_an_address_that_is_none(address, hub, capsys):
    code, _, err = command(capsys, "pull", f"hf:{address}")
    assert code == 2 and "is no run on the hub" in err and "hf:user/name" in err and hub.asked == []


def test_an_unknown_store_revision_or_folder(pushed, made, capsys):
    for argv, expected in (
        (["pull", "hff:me/first"], "names no store. Did you mean 'hf'?"),
        (["push", str(made), "me/first"], "names no store"),
        (["eval", f"{ADDRESS}@v9"], "no such revision"),
        (["push", str(made), f"{ADDRESS}@main"], "published without a revision"),
    ):
        code, _, err = command(capsys, *argv)
        assert code == 2 and expected in err, err
    Path("runs/there").mkdir(parents=True)
    code, _, err = command(capsys, "pull", ADDRESS, "runs/there")
    assert code == 2 and "is there already" in err


def test_the_token_is_sent_to_the_hub_and_shown_to_nobody(pushed, made, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    for argv in (["pull", ADDRESS, "runs/mine"], ["eval", "hf:me/frist"], ["push", str(made), ADDRESS]):
        capsys.readouterr()
        cli.main(argv)
        assert TOKEN not in "".join(capsys.readouterr()) + caplog.text
    assert TOKEN in pushed.tokens
    shown = [path for path in Path("runs").rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert shown == [] and not [1 for data in pushed.files(NAME).values() if TOKEN.encode() in data]


def test_without_the_package_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PluginError, match="needs the package 'huggingface_hub'") as caught:
        find_run(ADDRESS, registry=REGISTRY)
    assert caught.value.fix == 'pip install "worldlab[hub]"'


def test_errors_of_the_store_are_those_of_worldlab(hub):
    with pytest.raises(ConfigError):
        worldlab.load("hf:nobody/nothing")
    hub.status = 503
    with pytest.raises(StorageError):
        worldlab.load("hf:nobody/nothing")
