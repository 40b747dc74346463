#!/bin/sh
# gobuild.sh ARGUMENT... runs `go build ARGUMENT...`. On a terminal it shows which package is being compiled,
# because a first build takes minutes.
set -eu
[ -t 2 ] || exec go build "$@"
failed=$(mktemp)
trap 'rm -f "$failed"' EXIT
{ go build -v "$@" 2>&1 || echo $? >"$failed"; } | awk '
	# go build -v prints the import path of each package that it compiles; other lines are messages.
	/^[A-Za-z0-9_.~\/-]+$/ { printf "\r\033[Kgo build: %d packages, %s", ++n, $0; fflush(); next }
	{ printf "\r\033[K%s\n", $0 }
	END { printf "\r\033[K" }' >&2
if [ -s "$failed" ]; then exit "$(cat "$failed")"; fi
