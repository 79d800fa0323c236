"""The command `gemma-encoder`. Exit code 0: done; 1: something failed; 2: wrong input; 130: Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gemma_encoder.errors import CommandFailed, InputError, check_choice

if TYPE_CHECKING:
    from gemma_encoder.experiments.spec import RunSpec


class _Parser(argparse.ArgumentParser):
    """argparse with one clear line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _path(text: str) -> Path:
    """A path, of which the shell may have left a `~` standing, as behind `--save=`."""
    return Path(text).expanduser()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gemma-encoder", description="Turn a decoder-only language model into an encoder.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    reproduce = commands.add_parser("reproduce", help="run notebooks into HTML reports and an index page")
    _add_choices(reproduce)
    reproduce.add_argument("--out", type=_path, help="where reports go (default: reports/PROFILE)")
    reproduce.add_argument("--workers", type=int, default=1, help="notebooks that run side by side (default: 1)")
    reproduce.set_defaults(run=_reproduce)

    notebook = commands.add_parser("notebook", help="run one notebook into an HTML report")
    notebook.add_argument("name")
    notebook.add_argument("-p", "--parameter", action="append", default=[], metavar="KEY=VALUE")
    notebook.add_argument("--out", type=_path, help="where the report goes (default: reports/notebook)")
    notebook.set_defaults(run=_notebook)

    refresh = commands.add_parser("refresh", help="run notebooks with their defaults and keep the outputs in them")
    refresh.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    refresh.set_defaults(run=_refresh)

    train = commands.add_parser("train", help="one fine-tuning run")
    _add_run(train)
    train.add_argument("--save", type=_path, help="folder for the fine-tuned model; must not exist")
    train.set_defaults(run=_train)

    choose = commands.add_parser("choose", help="the best learning rate on a held-out tenth of the training rows")
    _add_run(choose)
    choose.add_argument("--rates", nargs="+", type=float, required=True, metavar="RATE")
    choose.set_defaults(run=_choose)

    submit = commands.add_parser(
        "submit", help="test predictions in the files that the GLUE and SuperGLUE servers take"
    )
    submit.add_argument("task")
    submit.add_argument("--data-dir", required=True, help="folder with the test rows that the server has, or 'hub'")
    submit.add_argument("checkpoint", help="a model fine-tuned for the task: what `train --save` wrote")
    submit.add_argument("out", type=_path, help="folder for the files")
    submit.add_argument("--max-length", type=int, default=512, help="tokens in a row (default: 512)")
    submit.add_argument("--truncate", action="store_true", help="cut longer rows, in place of refusing them")
    submit.set_defaults(run=_submit)

    plan = commands.add_parser("plan", help="what `reproduce` with these choices costs, before anything is spent")
    _add_choices(plan)
    plan.set_defaults(run=_plan)

    verify = commands.add_parser(
        "verify", help="prove an adapted checkpoint: masks, padding, dropout, soft-cap, batches, parameters"
    )
    verify.add_argument("checkpoint")
    verify.set_defaults(run=_verify)

    pretrain = commands.add_parser("pretrain", help="make the tiny decoder again")
    pretrain.add_argument("out", type=_path, help="folder to write; must not exist")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument(
        "--steps", type=int, default=0, help="updates of each stage (default: the committed decoder's)"
    )
    pretrain.set_defaults(run=_pretrain)

    tasks = commands.add_parser("tasks", help="write the built-in tasks again")
    tasks.add_argument("out", type=_path, help="folder to write to")
    tasks.set_defaults(run=_tasks)
    return parser


def _add_run(command: argparse.ArgumentParser) -> None:
    """What makes one fine-tuning."""
    command.add_argument("task")
    command.add_argument("--data-dir", default="builtin", help="folder with task files, or 'hub' (default: built-in)")
    command.add_argument("--model", default="tiny", help="'tiny', a checkpoint folder, or owner/model[@revision]")
    command.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="RunSpec settings")


def _add_choices(command: argparse.ArgumentParser) -> None:
    """A profile, and what a person changes of it."""
    command.add_argument(
        "--profile", default="tiny", help="a name in gemma_encoder/profiles, or a file (default: tiny)"
    )
    command.add_argument("--notebooks", nargs="+", metavar="NAME", help="only these (default: the profile's, or all)")
    command.add_argument("--data-dir", help="folder with task files, or 'hub' (default: the profile's)")
    command.add_argument(
        "--model", help="'tiny', a checkpoint folder, or owner/model[@revision] of the hub (default: the profile's)"
    )
    command.add_argument("--tasks", nargs="+", metavar="NAME", help="of the ablations; 'all': every task of the data")
    command.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="other settings")


def _chosen(args: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What each notebook is given by the profile and the arguments, and the settings of both."""
    from gemma_encoder.profiles import load_profile
    from gemma_encoder.reports.notebooks import full_name, notebook_names
    from gemma_encoder.reports.settings import given_parameters
    from gemma_encoder.tasks import tasks_in
    from gemma_encoder.yaml_values import split_pairs

    profile, pairs = load_profile(args.profile), list(args.set)
    usual = profile.pop("notebooks", notebook_names())
    names = [full_name(name) for name in args.notebooks or usual]
    pairs += [f"{key}={text}" for key, text in (("data", args.data_dir), ("model", args.model)) if text is not None]
    if args.tasks:
        if "all" in args.tasks and len(args.tasks) > 1:
            raise InputError(f"--tasks {' '.join(args.tasks)} is not valid; valid: names of tasks, or 'all' alone")
        tasks = tasks_in({**profile, **split_pairs(pairs)}["data"]) if args.tasks == ["all"] else args.tasks
        pairs.append(f"tasks=[{', '.join(tasks)}]")
    return given_parameters(names, profile, pairs), {**profile, **split_pairs(pairs)}


def _reproduce(args: argparse.Namespace) -> int:
    from gemma_encoder.paths import REPORTS, check_writable
    from gemma_encoder.reports.index import write_index
    from gemma_encoder.reports.runner import run_all
    from gemma_encoder.reports.settings import check_inputs

    if args.workers < 1:
        raise InputError(f"--workers {args.workers} is not valid; valid: an integer >= 1")
    given, settings = _chosen(args)
    check_inputs(given)
    profile = Path(args.profile).stem  # of a file, too
    out = args.out or REPORTS / profile
    check_writable(out)  # before everything is run, not after
    results = run_all(list(given), out, given, args.workers)
    facts = {"profile": profile, **settings}
    write_index(results, out / "index.html", f"Reports of the profile {profile}", facts)
    print(_shown(out / "index.html"))
    return 0 if all(result.status == "ok" for result in results) else 1


def _shown(path: Path) -> str:
    """`path` as a person in the current folder would type it."""
    return os.path.relpath(path)


def _notebook(args: argparse.Namespace) -> int:
    from gemma_encoder.paths import REPORTS, check_writable
    from gemma_encoder.reports.notebooks import parse
    from gemma_encoder.reports.runner import run_notebook
    from gemma_encoder.reports.settings import check_inputs

    given = parse(args.name, args.parameter)
    check_inputs({args.name: given})
    out = args.out or REPORTS / "notebook"
    check_writable(out)
    result = run_notebook(args.name, out, given)
    if result.html:
        print(_shown(result.html))
    if result.status != "ok":
        raise CommandFailed(f"{result.name} failed: {result.error}")
    return 0


def _refresh(args: argparse.Namespace) -> int:
    from gemma_encoder.reports.refresh import refresh

    for path in refresh(args.names):
        print(_shown(path))
    return 0


def _spec(args: argparse.Namespace, elsewhere: tuple[str, ...]) -> RunSpec:
    """The run that the arguments name; settings that are given `elsewhere` are refused in --set."""
    from gemma_encoder.experiments.spec import RunSpec, spec_fields
    from gemma_encoder.reports.notebooks import value_of
    from gemma_encoder.yaml_values import split_pairs

    types = {name: kind for name, kind in spec_fields().items() if name not in elsewhere}
    given = split_pairs(args.set)
    settings = {key: value_of(text, types[check_choice("setting", key, types)]) for key, text in given.items()}
    return RunSpec(task=args.task, model=args.model, data=args.data_dir, **settings)


def _train(args: argparse.Namespace) -> int:
    from safetensors import SafetensorError

    from gemma_encoder.experiments.run import run

    spec = _spec(args, ("task", "model", "data"))
    try:
        result = run(spec, keep=args.save)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise CommandFailed(str(error)) from error
    for name, value in result.metrics.items():
        print(f"{name} {value:.4f}")
    print(f"score {result.score:.1f}\n{_shown(result.folder)}")
    return 0


def _choose(args: argparse.Namespace) -> int:
    from gemma_encoder.experiments.choose import choose_learning_rate
    from gemma_encoder.experiments.sweep import SweepError

    spec = _spec(args, ("task", "model", "data", "learning_rate", "evaluate_on"))
    try:
        best, scores = choose_learning_rate(spec, args.rates)
    except SweepError as error:
        if all(isinstance(failure, InputError) for failure in error.failures.values()):
            raise InputError(str(error)) from error
        raise
    for rate, score in scores.items():
        print(f"learning_rate {rate:g} score {score:.1f}")
    print(f"best {best:g}, on held-out training rows")
    return 0


def _submit(args: argparse.Namespace) -> int:
    from gemma_encoder.heads import load_model
    from gemma_encoder.loading import load_tokenizer
    from gemma_encoder.tasks import get_task
    from gemma_encoder.tasks.answers import submit

    task, model, tokenizer = get_task(args.task), load_model(args.checkpoint), load_tokenizer(args.checkpoint)
    length = {"max_length": args.max_length, "truncate": args.truncate}
    for path in submit(task, model, tokenizer, args.data_dir, args.out, **length):
        print(_shown(path))
    return 0


def _plan(args: argparse.Namespace) -> int:
    from gemma_encoder.experiments.plan import as_text
    from gemma_encoder.profiles import control_specs
    from gemma_encoder.reports.notebooks import all_parameters
    from gemma_encoder.reports.planned import in_words, parts
    from gemma_encoder.reports.settings import check_runs

    given = _chosen(args)[0]
    values = {name[:2]: all_parameters(name, changed) for name, changed in given.items()}
    values = {number: of | of.get("more", {}) for number, of in values.items()}
    planned = parts(values)
    check_runs(given)
    print(as_text(planned))
    if "00" in values:
        print("left out   2 runs of notebook 00")
    if beside := {number: runs for number in ("08", "09") if (runs := control_specs(values.get(number, {})))}:
        runs = dict.fromkeys(spec for part in beside.values() for spec in part)
        print("\nbeside it, on the tasks of both benchmarks, the native encoder:")
        print(as_text({f"as control ({in_words(beside)})": list(runs)}))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from gemma_encoder.heads import load_model
    from gemma_encoder.proofs import as_table, verify

    model = load_model(args.checkpoint, probe=False)  # what is wrong is for the proofs to say
    proofs = verify(model)
    failed = [proof.what for proof in proofs if not proof.ok]
    print(as_table(proofs))
    if failed:
        raise CommandFailed(f"{len(failed)} of {len(proofs)} proofs fail: {'; '.join(failed)}")
    print(f"attention is {model.config.attention}, as asked; {len(proofs)} of {len(proofs)} proofs hold")
    return 0


def _pretrain(args: argparse.Namespace) -> int:
    from gemma_encoder.experiments.pretrain import STAGES, pretrain

    stages = [replace(stage, steps=args.steps or stage.steps) for stage in STAGES]
    print(_shown(pretrain(args.out, seed=args.seed, stages=stages)))
    return 0


def _tasks(args: argparse.Namespace) -> int:
    from gemma_encoder.paths import check_writable
    from gemma_encoder.tasks.world import write_tasks

    check_writable(args.out)
    write_tasks(args.out)
    print(_shown(args.out))
    return 0


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Warnings for a person are one line, without the line of code that Python adds; afterwards all is as it was."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, UserWarning):
            print(f"gemma-encoder: warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            usual(message, category, *where)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no warning when a pool of processes starts
    try:
        args = _parser().parse_args(argv)
        with _short_warnings():
            code = args.run(args)
        sys.stdout.flush()  # whether its reader is gone is known here, and not when Python ends
        return code
    except InputError as error:
        said, code = error, 2
    except BrokenPipeError:  # the reader has all that it wanted, as of `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 1
    except (OSError, CommandFailed) as error:  # a full disk, a folder that cannot be written
        said, code = error, 1
    except KeyboardInterrupt:
        said, code = "interrupted; finished runs are kept", 130
    print(f"gemma-encoder: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
