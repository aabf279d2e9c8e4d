"""The same as turbo.workspaces.odd_files for another user's worktree and repository: a shell script of that user's looks.

git then obeys the whole configuration of that user, so the files that it includes and the lists that it names are looked at,
too. The script starts git for that alone, on one file at a time that was looked at before, in `/` and without another
configuration: it waits for none of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from turbo.process.identity import Identity

_KNOWN = r"""
where=$1 own=$2 HOME=$3 settings=$4 names=$5 walk=$6 ssh=$7
export HOME GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null

odd() {
    find -L "$@" -prune \( -type f -size +32768 ! -name packed-refs -o -type p -o -type c -o -type b \) \
        ! -samefile /dev/null -print 2>/dev/null
}
line_of() { [ -f "$1" ] && [ -z "$(odd "$1")" ] && IFS= read -r line <"$1"; }
below() { case $2 in /*) path=$2 ;; *) path=$1/$2 ;; esac; }
value() { git config --file "$1" --type=path --get-all "$2" 2>/dev/null; }

configuration() {
    if [ -n "$(odd "$1")" ]; then odd "$1"; return; fi
    [ -f "$1" ] || return 0
    if grep -qiE "(excludes|attributes)file" "$1"; then
        for key in core.excludesFile core.attributesFile; do
            value "$1" $key | while IFS= read -r path; do below "$where" "$path"; odd "$path"; done
        done
    fi
    [ "$2" -lt 5 ] && grep -qi include "$1" || return 0
    git config --file "$1" --name-only --get-regexp '^include(if\..*)?\.path$' 2>/dev/null | sort -u | while IFS= read -r key; do
        value "$1" "$key" | while IFS= read -r path; do
            below "${1%/*}" "$path"
            configuration "$path" $(($2 + 1))
        done
    done
}

unquoted() {
    case $1 in
    \"*\") printf "$(printf %s "$1" | sed 's/^"//; s/"$//; s/%/%%/g; s/\\"/"/g')" ;;
    *) printf %s "$1" ;;
    esac
}

stores() {
    [ "$2" -lt 6 ] && [ -f "$1/info/alternates" ] && [ -z "$(odd "$1/info/alternates")" ] || return 0
    head -n 100 "$1/info/alternates" | while IFS= read -r line; do
        case $line in "" | "#"*) continue ;; esac
        below "$1" "$(unquoted "$line")"
        odd "$path/info/alternates"
        find -H "$path/info" "$path/pack" "$path"/[0-9a-f][0-9a-f] -maxdepth 2 \
            \( -type p -o -type c -o -type b \) -print 2>/dev/null
        stores "$path" $(($2 + 1))
    done
}

if [ -z "$own" ]; then
    own=$where
    if [ -d "$where/.git" ]; then own=$where/.git
    elif line_of "$where/.git"; then below "$where" "${line#gitdir: }"; own=$path
    fi
fi
common=$own
if line_of "$own/commondir"; then common=$(cd "$own" && cd "$line" && pwd -P) || common=$own; fi

known() {
    for name in $names; do odd "$own/$name" "$common/$name"; done
    for name in .gitignore .gitattributes .gitmodules; do
        find "$where/$name" -prune \( -type f -size +32768 -o -type p -o -type c -o -type b \) -print 2>/dev/null
    done
    odd "$settings/git/ignore" "$settings/git/attributes"
    set --
    for name in $ssh; do set -- "$@" "$HOME/.ssh/$name"; done
    [ ! -d "$HOME/.ssh" ] || odd "$@"
    for file in "$settings/git/config" "$HOME/.gitconfig" "$common/config" "$own/config.worktree"; do
        configuration "$file" 0
    done
    stores "$common/objects" 0
}
first=$(known | head -n 1)
if [ -n "$first" ]; then printf '%s\n' "$first"; exit; fi
[ "$walk" = walk ] || exit 0
{
    find "$where" \( -name .gitignore -o -name .gitattributes -o -name .gitmodules \) \
        \( -type f -size +32768 -o -type p -o -type c -o -type b \) -print
    find -H "$own" "$common" "$common"/* \( -type p -o -type c -o -type b \) -print
} 2>/dev/null | head -n 1
"""


def first_odd(
    user: Identity,
    where: Path,
    git_dir: Path | None,
    environment: Mapping[str, str],
    names: tuple[str, ...],
    of_ssh: tuple[str, ...],
    *,
    walk: bool,
) -> Path | None:
    """The first odd file. `names`: those in a git directory. `of_ssh`: those in ~/.ssh. `walk`: look into all directories,
    too. Blocks. Never raises."""
    settings = environment.get("XDG_CONFIG_HOME") or f"{user.home}/.config"
    try:
        lists = " ".join(names), "walk" if walk else "", " ".join(of_ssh)
        found = user.script(_KNOWN, where, git_dir or "", user.home, settings, *lists)
    except OSError:
        return None
    lines = os.fsdecode(found.stdout).splitlines()
    return Path(lines[0]) if lines else None
