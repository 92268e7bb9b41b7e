"""Launch targets, a table and a module each, found by listing this folder.

``NAME.toml`` is all that is said of a target in words: title, version, aliases, the stack that it is priced
as, how its commands are told, its flags, and what it cannot say (:class:`meshwise.launch.table.Target`).
``NAME.py`` (``-`` as ``_``) has what its settings mean where they are more than a field of a job each; a
target whose flags are needs none. ``flags/NAME.csv`` has all flags of its own source at one release, written by
``tools/target_flags.py``: what the table does not name is known to be of no matter to a price. The module's
functions are found by name, each may be left out:

* ``read(settings, world)``: the fields of a job that settings come to, and sentences about them;
* ``write(job, target)``: the command of a job, and the files that it reads;
* ``defaults(settings, fields)``: what the target does where the command does not say it: further fields,
  and sentences;
* ``split(table)``: of a configuration file, the settings that are no flags, and the rest to be read as flags;
* ``with_files(settings, text, launch, script, target)``: settings with those of files that are no flags;
* ``shape(settings)``: what settings say of the model;
* ``model_named(settings)``: settings with the model's name as presets have it;
* ``unpriced(settings)``: what settings change that is not priced, and keys that do not matter;
* ``check_command(launch)``: raises for a command that is the target's and does not train or serve;
* ``is_local(flag, values)``: whether a flag that may put a part of the requests' work on other GPUs does not;
* ``claims(before, after, says)``: how surely a training script with these words before and after it is the
  target's (0: it is not); ``says`` are the targets whose degrees the words after it spell.
"""

from __future__ import annotations

from pathlib import Path

TARGETS_FOLDER = Path(__file__).parent


def target_names() -> tuple[str, ...]:
    """Names of all targets, in the order of the alphabet."""
    return tuple(sorted(file.stem for file in TARGETS_FOLDER.glob("*.toml")))
