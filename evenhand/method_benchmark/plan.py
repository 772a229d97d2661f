"""What a benchmark runs: every method with its seeds, every baseline once, on every case, each in its own folder.

A case is three experiments of conf/experiment: ``<case>_build``, ``<case>_train`` and ``<case>``, which measures.
Methods and baselines are found on the disk (conf/method, conf/arm), so a new one is in the next benchmark. A call may
run a part of them; the page is of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evenhand.adapters.file import WEIGHTS_NAME
from evenhand.launch import EVALUATION_FOLDER, quoted
from evenhand.method_benchmark.bars import Bar
from evenhand.method_benchmark.names import ADAPTER_ARM, CERTIFICATE, NO_CHOICE, TRAINING_FOLDER
from evenhand.paths import conf_folder

BUILD, TRAIN, EVALUATE = "data_recipes/build", "train/lora", "evaluate/shift"
# The file of conf/ that each of them begins with.
PRIMARY = {BUILD: "build", TRAIN: "train", EVALUATE: "evaluate"}
# Overrides that say where a run is, and those that differ between runs of the same kind and cannot be wrong.
PLACES = ("run_folder=", "run_name=", "data=", "adapter=", "cache_folder=")
OF_THE_RUN = ("seed=", *PLACES)

Kind = Literal["method", "baseline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """A method of conf/method, or a baseline of conf/arm."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A competitor on a case, with a training's seed; None for a baseline, which is not trained."""

    competitor: Competitor
    case: str
    seed: int | None
    folder: Path

    @property
    def pieces(self) -> tuple[str, ...]:
        """What names it, or what it is a part of: ``market``, ``market/distill``, ``market/distill-s0``."""
        return self.case, f"{self.case}/{self.competitor.name}", f"{self.case}/{self.folder.name}"

    def set_folder(self, seed: int) -> Path:
        """The folder of the curated set, which all methods of a case share that have this seed."""
        return self.folder.with_name(f"set-s{seed}")

    @property
    def label(self) -> str:
        """The run in a few words."""
        return f"{self.case}, {self.competitor.name}" + ("" if self.seed is None else f", seed {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A program that is run in a process of its own, and the file that is there when it has done its work.

    ``needs`` is the file of the step before that it works on, None for the first: of another one it is done again.
    """

    program: str
    overrides: tuple[str, ...]
    folder: Path
    done: Path
    label: str
    needs: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What conf/benchmark_methods.yaml decides; its comments say what each means."""

    cases: tuple[str, ...]
    methods: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    seeds_of: Mapping[str, Sequence[int]] | None
    ours: str | None
    ours_in: Mapping[str, str] | None
    only: tuple[str, ...]
    without: tuple[str, ...]
    bars: Mapping[str, Bar]
    num_processes: int
    budget_seconds: float
    build: tuple[str, ...]
    train: tuple[str, ...]
    of_method: Mapping[str, Sequence[str]] | None
    of_arm: Mapping[str, Sequence[str]] | None
    of_case: Mapping[str, Sequence[str]] | None
    evaluate: tuple[str, ...]
    evaluation_seed: int
    level: float
    run_folder: Path
    results_folder: Path | None

    def __post_init__(self) -> None:
        for name, found in (("cases", self.cases), ("seeds", self.seeds), *self._seed_lists()):
            if isinstance(found, str) or not isinstance(found, Sequence):
                raise ValueError(f"{name} must be a list, got {found!r}")
            if not found or len(set(found)) != len(found):
                raise ValueError(f"{name} must be one or more different ones, got {list(found)}")
        for name, listed in (("methods", self.methods), ("arms", self.arms)):
            if len(set(listed)) != len(listed):
                raise ValueError(f"{name} must be different ones, got {list(listed)}")
        for name, seeds in (("seeds", self.seeds), *self._seed_lists()):
            if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
                raise ValueError(f"{name} must be whole numbers >= 0, got {list(seeds)}")
        for case in self.cases:
            for experiment in (f"{case}_build", f"{case}_train", case):
                if not (conf_folder() / "experiment" / f"{experiment}.yaml").is_file():
                    raise ValueError(
                        f"cases: {case!r} needs conf/experiment/{experiment}.yaml; there are {', '.join(cases())}"
                    )
        methods, arms = choices("method"), _baselines()
        _known("methods", self.methods, [*methods, NO_CHOICE])
        _known("arms", self.arms, [*arms, NO_CHOICE])
        # What is said of a case that is not asked for this time stands in the same file.
        _known("of_method", self.of_method or (), [*methods, *_in_cases(cases(), methods)])
        _known("seeds_of", self.seeds_of or (), [*methods, *_in_cases(cases(), methods)])
        _known("of_arm", self.of_arm or (), [*arms, *_in_cases(cases(), arms)])
        _known("of_case", self.of_case or (), cases())
        _known("bars", [bar.case for bar in self.bars.values()], cases())
        self._check_overrides()
        if self.num_processes < 1:
            raise ValueError(f"num_processes must be >= 1, got {self.num_processes}")
        if self.budget_seconds <= 0:
            raise ValueError(f"budget_seconds must be > 0, got {self.budget_seconds}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must be between 0 and 1, got {self.level}")
        if not self.competitors:
            raise ValueError("nothing to compare: methods and arms are both [none]")
        _known("ours", () if self.ours is None else (self.ours,), methods)
        _known("ours_in", self.ours_in or (), cases())
        _known("ours_in", (self.ours_in or {}).values(), methods)
        of_any_case = [*cases(), *_in_cases(cases(), [*methods, *arms])]
        _known("without", self.without, list(dict.fromkeys([*of_any_case, *_pieces(self._all_runs())])))
        _known("only", self.only, _pieces(self.runs))

    def _seed_lists(self) -> tuple[tuple[str, Sequence[int]], ...]:
        return tuple((f"seeds_of.{name}", seeds) for name, seeds in (self.seeds_of or {}).items())

    def _check_overrides(self) -> None:
        """Raise ValueError for what are no lists of texts: a mapping of YAML, where the colon has a blank behind it."""
        lists: dict[str, Sequence[object]] = {"build": self.build, "train": self.train, "evaluate": self.evaluate}
        lists |= {f"of_method.{name}": found for name, found in (self.of_method or {}).items()}
        lists |= {f"of_arm.{name}": found for name, found in (self.of_arm or {}).items()}
        lists |= {f"of_case.{name}": found for name, found in (self.of_case or {}).items()}
        for name, found in lists.items():
            wrong = [one for one in found if not isinstance(one, str) or ("=" not in one and not one.startswith("~"))]
            if isinstance(found, str) or wrong:
                raise ValueError(f'{name} must be overrides such as ["train.steps=100"], got {found!r}')

    @property
    def competitors(self) -> tuple[Competitor, ...]:
        """Methods first, each as it was listed, or all there are."""
        methods, arms = self.methods or choices("method"), self.arms or _baselines()
        return (
            *(Competitor(name=name, kind="method") for name in methods if name != NO_CHOICE),
            *(Competitor(name=name, kind="baseline") for name in arms if name != NO_CHOICE),
        )

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run: seed by seed, so that a benchmark that was stopped has compared all there are with few seeds."""
        return tuple(run for run in self._all_runs() if not set(run.pieces) & set(self.without))

    def _all_runs(self) -> list[Run]:
        found = []
        for case in self.cases:
            seeds_of = {one: self._seeds(one, case) for one in self.competitors}
            for place in range(max(len(seeds) for seeds in seeds_of.values())):
                for one, seeds in seeds_of.items():
                    if place < len(seeds):
                        folder = self._folder(one, case, seeds[place])
                        found.append(Run(competitor=one, case=case, seed=seeds[place], folder=folder))
        return found

    @property
    def chosen(self) -> tuple[Run, ...]:
        """The runs of this call: all of them, or those that are named in ``only``."""
        return tuple(run for run in self.runs if not self.only or set(run.pieces) & set(self.only))

    def _seeds(self, competitor: Competitor, case: str) -> Sequence[int | None]:
        """The seeds of a method in a case; a baseline is not trained."""
        if competitor.kind == "baseline":
            return (None,)
        said = self.seeds_of or {}
        return said.get(f"{case}/{competitor.name}", said.get(competitor.name, self.seeds))

    def _folder(self, competitor: Competitor, case: str, seed: int | None) -> Path:
        name = competitor.name if seed is None else f"{competitor.name}-s{seed}"
        return self.run_folder / case / name

    def ours_of(self, case: str) -> str | None:
        """The method of which the page says where it stands in a case; None where it says nothing of that."""
        return None if self.ours is None else (self.ours_in or {}).get(case, self.ours)

    def steps(self, run: Run) -> tuple[Step, ...]:
        """What makes a run, in order: a set, a training and a measurement, or a measurement alone."""
        evaluation = run.folder / EVALUATION_FOLDER
        adapter = run.folder / TRAINING_FOLDER / "adapter"
        is_trained = run.competitor.kind == "method"
        what = [f"adapter={quoted(str(adapter))}"]
        if not is_trained:
            what = [f"arm={run.competitor.name}", "adapter=null", *_of(self.of_arm, run)]
        measure = Step(
            program=EVALUATE,
            overrides=(
                f"experiment={run.case}",
                f"run_folder={quoted(str(evaluation))}",
                f"seed={self.evaluation_seed}",
                f"num_processes={self.num_processes}",
                *self.evaluate,
                *(self.of_case or {}).get(run.case, ()),
                *what,
            ),
            folder=run.folder,
            done=evaluation / "results.json",
            label=f"measure {run.label}",
            needs=adapter / WEIGHTS_NAME if is_trained else None,
        )
        return (measure,) if run.seed is None else (*self._training(run, run.seed), measure)

    def _training(self, run: Run, seed: int) -> tuple[Step, Step]:
        data, training = run.set_folder(seed), run.folder / TRAINING_FOLDER
        launch = f"launch.num_processes={self.num_processes}"
        build = Step(
            program=BUILD,
            overrides=(
                f"experiment={run.case}_build",
                f"run_folder={quoted(str(data))}",
                f"seed={seed}",
                launch,
                *self.build,
            ),
            folder=data,
            done=data / CERTIFICATE,
            label=f"build the set of {run.case}, seed {seed}",
        )
        train = Step(
            program=TRAIN,
            overrides=(
                f"experiment={run.case}_train",
                f"method={run.competitor.name}",
                f"run_folder={quoted(str(training))}",
                f"run_name={run.competitor.name}-s{seed}",
                f"data={quoted(str(data))}",
                f"cache_folder={quoted(str(self.run_folder / 'cache'))}",
                f"seed={seed}",
                launch,
                *self.train,
                *_of(self.of_method, run),
            ),
            folder=run.folder,
            done=training / "adapter" / "card.json",
            label=f"train {run.label}",
            needs=data / CERTIFICATE,
        )
        return build, train


def note_of(step: Step) -> Path:
    """The file that says with which overrides a step was done."""
    return step.folder / note_name(step.program)


def note_name(program: str) -> str:
    """The name of such a file: ``lora.done.json``, with the ``seconds`` that the program took when it was last run."""
    return f"{program.rpartition('/')[2]}.done.json"


def choices(group: str) -> tuple[str, ...]:
    """The choices of a group of conf/, by name."""
    return tuple(sorted(path.stem for path in (conf_folder() / group).glob("*.yaml")))


def cases() -> tuple[str, ...]:
    """The cases that conf/experiment has all three parts of."""
    names = set(choices("experiment"))
    return tuple(sorted(name for name in names if {f"{name}_build", f"{name}_train"} <= names))


def _baselines() -> tuple[str, ...]:
    return tuple(name for name in choices("arm") if name != ADAPTER_ARM)


def _known(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: unknown {name!r}; choose from {', '.join(known)}")


def _pieces(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(piece for run in runs for piece in run.pieces))


def _in_cases(cases: Sequence[str], names: Sequence[str]) -> list[str]:
    return [f"{case}/{name}" for case in cases for name in names]


def _of(overrides: Mapping[str, Sequence[str]] | None, run: Run) -> tuple[str, ...]:
    """What is said of a competitor, and then of it in this case."""
    name, said = run.competitor.name, overrides or {}
    return (*said.get(name, ()), *said.get(f"{run.case}/{name}", ()))
