"""The steps of a reproduction: plan and carry out runs, analyze them, show a row."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time

from app_start import lazy_import
from reproduction.figures import comparisons_table, figures_table, measured_row
from reproduction.runs import (
    APPS,
    analysis_folder,
    app_of,
    as_text,
    command_of,
    cost_cells,
    folder_of,
    network_of,
    petaflop,
    results_of,
    state_of,
    teacher_seed,
    with_teachers,
)

callbacks = lazy_import("sd_keras.callbacks")
report = lazy_import("sd_keras.report")

SCALED = "SCALED DOWN ({}): other runs than a paper's, not to be compared with its figures."
TEST_IMAGES = 10_000  # of both CIFAR sets: all of them
# Less than this is not enough to load, compile and train an epoch.
LAST_MINUTES = 2
COUNTED = "Counted, not trained."


def runs_of(rows, scale, seeds):
    """Returns pairs of a Run and a seed, each once: all of a seed before the next one."""
    pairs = [
        (scale.apply(cell.run), seed)
        for seed in seeds
        for row in rows
        for cell in row.cells
        if cell.measure != "acceleration"
    ]
    return with_teachers(pairs, scale)


def planned(runs, scale, output):
    """Returns the commands as text, with their costs and states."""
    lines, total = [], 0.0
    for run, seed in runs:
        folder = output / folder_of(run, scale, seed)
        cost = petaflop(run, scale)
        total += cost or 0
        counted = "cost not counted" if cost is None else f"{cost_cells(cost)[0]} PFLOP"
        lines.append(f"# {state_of(folder)}; {counted}")
        lines.append(as_text(command_of(run, scale, seed, output)))
    cost, minutes = cost_cells(total)
    lines.append(
        f"# {len(runs)} runs, {cost} PFLOP: {minutes} minutes of an H200 if it achieves "
        "300 TFLOP/s, which is an estimate, not a measurement"
    )
    return "\n".join(lines)


def carry_out(runs, scale, output, minutes=None):
    """Carries out the runs of `runs_of` that are not finished.

    Returns the names of those that failed, and whether the time ended before the last.
    """
    failed, begun, left = [], time.monotonic(), minutes
    teachers = {_teacher_of(run, seed, scale) for run, seed in runs}
    waiting = []
    for number, (run, seed) in enumerate(runs, start=1):
        name = folder_of(run, scale, seed)
        where = f"[{number}/{len(runs)}] {name}"
        find = network_of if name in teachers else results_of
        if find(output / name) is None:
            waiting.append((where, name, run, seed))
        else:
            print(f"{where}: finished before", flush=True)
    for index, (where, name, run, seed) in enumerate(waiting):
        if minutes is not None:
            left = minutes - (time.monotonic() - begun) / 60
        if index and left is not None and left < LAST_MINUTES:
            return failed, True
        why = _carry_out(where, run, seed, scale, output, left)
        if why == callbacks.PREEMPTED:
            return failed, True
        if why:
            failed.append(f"{name}: {why}")
    return failed, False


def _carry_out(where, run, seed, scale, output, minutes):
    """Carries out one run; returns why it failed, PREEMPTED when out of time, or None."""
    teacher = _teacher_of(run, seed, scale)
    if teacher and network_of(output / teacher) is None:
        print(f"{where}: skipped, its teacher is not finished", flush=True)
        return "its teacher is not finished"
    with _alone(output / folder_of(run, scale, seed)) as lock:
        if lock is None:
            return "another process trains it"
        code = _call(where, command_of(run, scale, seed, output, minutes), lock)
    return code if code == callbacks.PREEMPTED else code and f"exit code {code}"


def _teacher_of(run, seed, scale):
    """Returns the folder of a run's teacher below the output, or None."""
    return run.teacher and folder_of(run.teacher, scale, teacher_seed(scale, seed))


@contextlib.contextmanager
def _alone(folder):
    """Holds the lock of a run, a file next to its folder.

    Yields a tuple of files that the run's process must keep open, so that the run stays locked
    when it outlives this process; None where another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield ()
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield (file.fileno(),)


def analysed(row, scale, seeds, output):
    """Runs the analyses of a row by apps/analyze.py; returns the names of those that failed."""
    failed = []
    runs = {cell.label: scale.apply(cell.run) for cell in row.cells}
    for words, label, beside in row.analyses:
        for seed in seeds:
            folders = [
                output / folder_of(runs[name], scale, seed) for name in (label, beside) if name
            ]
            target = analysis_folder(words, folders[0])
            if any(network_of(folder) is None for folder in folders):
                failed.append(f"{target}: its runs are not finished, or their networks not here")
                continue
            command = [sys.executable, app_of("analyze.py"), words]
            command.append(f"--network={folders[0]}")
            command += [f"--beside={folder}" for folder in folders[1:]]
            command += [f"--data_dir={scale.data_dir}"] if scale.data_dir else []
            command += [f"--images={TEST_IMAGES}"] if words == "separability" else []
            code = 0
            if not (target / "index.html").is_file():  # written last
                code = _call(str(target), [*command, f"--output={target}"])
            if code:
                failed.append(f"{target}: exit code {code}")
            else:
                print(f"{words}: written to {target}", flush=True)
    return failed


def _call(where, command, keep=()):
    print(f"{where}\n{as_text(command)}", flush=True)
    # The library of this checkout, whether or not it is installed.
    paths = [str(APPS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(command, env=environment, check=False, pass_fds=keep).returncode


def show_row(table_name, table, row, scale, seeds, output):
    """Prints a row; returns the sections of a page, as dicts for JSON."""
    measured = measured_row(row, scale, seeds, output)
    counted = all(cell.measure == "acceleration" for cell in row.cells)
    notes = [table.note, COUNTED if counted else ""]
    notes += [SCALED.format(scale.told())] if scale.is_down else []
    notes += [f"Trained in {scale.precision}."] if scale.precision != "float32" else []
    note = " ".join(filter(None, notes))
    network = f"{scale.model} for {row.name}" if scale.model else row.name
    title = f"{table_name}, {network}: {table.title}"
    for name in ("CIFAR-100", "CIFAR-10", "ImageNet") if scale.dataset else ():
        title = title.replace(name, scale.dataset)
    title += ", SCALED DOWN" if scale.is_down else ""
    sections = [report.Section(title, *figures_table(measured, scale), note)]
    header, lines = comparisons_table(measured)
    if lines:
        about = (
            f"Paired t-tests by seed, two-sided, of {len(lines)} comparisons in this row: of "
            "so many, some come out below 0.05 by chance; Holm's correction allows for that."
        )
        sections.append(report.Section(f"{title}: comparisons", header, lines, about))
    for part in sections:
        print(f"\n{part.title}\n\n{report.table(part.header, part.rows)}")
        print(f"\n{part.note}" if part.note else "", flush=True)
    return [dataclasses.asdict(part) for part in sections]


def listed(tables, with_costs, scale):
    """Returns all tables and their rows as text, if asked for with the costs of one seed."""
    lines, counted = [], []
    for name, table in tables.items():
        lines += [f"{name}: {table.title}", *(f"    {row.name}" for row in table.rows)]
        for row in table.rows if with_costs else ():
            costs = [petaflop(run, scale) for run, _ in runs_of([row], scale, [0])]
            cells = cost_cells(None if None in costs else sum(costs))
            counted.append([f"{name}  {row.name}", len(costs), *cells])
    if with_costs:
        return report.table(["table and row", "runs", "PFLOP", "minutes"], counted)
    return "\n".join(lines)
