#!/bin/sh
# The published `ggml-rpc`: becomes Bun with the program beside this file, since Node alone takes longer to start than a command.
# Takes the Bun of the npm package `bun`, an optional dependency, else the one on the PATH.

unset CDPATH
case $0 in
  */*) self=$0 ;;
  *) self=./$0 ;;
esac
while [ -L "$self" ]; do
  target=$(readlink "$self")
  case $target in
    /*) self=$target ;;
    *) self=${self%/*}/$target ;;
  esac
done
folder=$(cd -P -- "${self%/*}" && pwd) || exit 1
program=$folder/start.js

# Prints the folder of a package ($1) as modules in the folder $2 find it.
folder_of() {
  at=$2
  while [ ! -d "$at/node_modules/$1" ]; do
    [ -n "$at" ] || return 1
    at=${at%/*}
  done
  (cd -P -- "$at/node_modules/$1" && pwd)
}

# Bun as npm installs it: moved into `bun` by that package's install script, which knows this machine, or left in the package of a
# platform, with a text in its place.
if package=$(folder_of bun "$folder"); then
  bun=$package/bin/bun.exe
  first=
  [ ! -r "$bun" ] || IFS= read -r first <"$bun" || true
  case $first in
    '' | echo*) bun= ;;
  esac
  if [ -z "$bun" ] && platforms=$(folder_of @oven "$package"); then
    # There may be several, for other processors and C libraries.
    for found in "$platforms"/bun-*/bin/bun; do
      if "$found" --version >/dev/null 2>&1; then
        bun=$found
        break
      fi
    done
  fi
  [ -z "$bun" ] || exec "$bun" "$program" "$@"
fi
command -v bun >/dev/null && exec bun "$program" "$@"

echo "ggml-rpc needs Bun 1.4.5 or newer: neither the npm package 'bun' nor a 'bun' on the PATH was found. Install it with 'npm install bun', or see https://bun.com." >&2
exit 1
